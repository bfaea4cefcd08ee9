// The scatter plot over all classes and the precision-recall curves of one.

const ZERO = 0.5; // where a class without training images stands on the logarithmic axis
const SHAPES = { r: 'triangle', c: 'rectRot', f: 'circle' };
let scatter = null;
let curves = null;

const scatterValue = (index) =>
  state.mode === 'ap' ? RUNS[state.run].ap[index]
    : minus(RUNS[state.run].ap[index], RUNS[0].ap[index]);

function scatterPoints(group) {
  const points = [];
  CLASSES.groups.forEach((own, index) => {
    const y = scatterValue(index);
    if ((own ?? null) === group && y !== null) {
      points.push({ x: Math.max(CLASSES.counts[index], ZERO), y, index });
    }
  });
  return points;
}

function scatterSets() {
  const present = ['f', 'c', 'r', null].filter((group) => CLASSES.groups.includes(group));
  const many = CLASSES.names.length > 400;
  const sets = present.map((group) => ({
    label: GROUPS[group] ?? 'classes',
    data: scatterPoints(group),
    pointStyle: SHAPES[group] ?? 'circle',
    backgroundColor: groupColour(group) + (many ? '90' : 'c0'),
    borderWidth: 0,
    clip: 12,
    pointRadius: many ? 3.5 : 5,
    pointHoverRadius: 7,
    order: 1,
  }));
  const y = scatterValue(state.class);
  const chosen = y === null ? []
    : [{ x: Math.max(CLASSES.counts[state.class], ZERO), y, index: state.class }];
  sets.push({ label: 'selected', data: chosen, pointStyle: 'circle', pointRadius: 10,
    pointHoverRadius: 10, backgroundColor: 'transparent', borderColor: style('--text'),
    borderWidth: 2, clip: 12, order: 0 });
  return sets;
}

function axis(text, more = {}) {
  return {
    title: { display: true, text, color: style('--muted') },
    grid: { color: style('--line'), tickColor: 'transparent' },
    border: { display: false },
    ...more,
    ticks: { color: style('--muted'), ...more.ticks },
  };
}

const countTick = (value) => (value === ZERO ? '0' : whole(value));

// A little wider than the data, so that no point is cut in half at the border.
const countRange = () => ({
  min: Math.max(Math.min(...CLASSES.counts), ZERO) * 0.8,
  max: Math.max(...CLASSES.counts, 1) * 1.25,
});

function countTicks(scale) {
  const steps = scale.max / scale.min > 1e4 ? [1] : [1, 2, 5];
  const values = [];
  for (let power = 1; power <= scale.max; power *= 10) values.push(...steps.map((s) => s * power));
  if (CLASSES.counts.includes(0)) values.unshift(ZERO);
  let ticks = values.filter((value) => value >= scale.min && value <= scale.max);
  if (ticks.length < 2) ticks = [...new Set([Math.min(...CLASSES.counts), Math.max(...CLASSES.counts)])];
  scale.ticks = ticks.map((value) => ({ value }));
}

function scatterOptions() {
  return {
    animation: false,
    maintainAspectRatio: false,
    parsing: false,
    onClick: (_, hits) => hits.length && select(pointOf(hits[0]).index, { scroll: true }),
    onHover: (event, hits) => { event.native.target.style.cursor = hits.length ? 'pointer' : ''; },
    scales: {
      x: axis(`${DATASET.counted} images of the class`, { type: 'logarithmic', ...countRange(),
        afterBuildTicks: countTicks, ticks: { callback: countTick, autoSkip: false, maxRotation: 0 } }),
      y: axis(state.mode === 'ap' ? `AP, ${RUNS[state.run].name}` : `AP − AP of ${RUNS[0].name}`),
    },
    plugins: {
      legend: { position: 'top', align: 'end', labels: { color: style('--text'), usePointStyle: true,
        boxHeight: 7, filter: (item) => item.text !== 'selected' } },
      tooltip: { displayColors: false, callbacks: {
        title: (items) => CLASSES.names[items[0].raw.index],
        label: (item) => pointText(item.raw.index) } },
    },
  };
}

const pointOf = (hit) => scatter.data.datasets[hit.datasetIndex].data[hit.index];

function pointText(index) {
  const aps = RUNS.map((run) => `${run.name}: ${percent(run.ap[index])}`);
  return [`${whole(CLASSES.counts[index])} ${DATASET.counted} images`, ...aps];
}

function drawScatter() {
  scatter?.destroy();
  byId('scatter-title').textContent = state.mode === 'ap'
    ? `AP against ${DATASET.counted} images` : `Change of AP against ${DATASET.counted} images`;
  scatter = new Chart(byId('scatter'),
    { type: 'scatter', data: { datasets: scatterSets() }, options: scatterOptions() });
}

function markScatter() {
  scatter.data.datasets = scatterSets();
  scatter.update('none');
}

function curveSet(run, index) {
  const values = RUNS[run][state.iou][index];
  if (values === null) return null;
  const points = values.map((y, x) => ({ x, y }));
  const end = values.length;
  if (end > 0 && end <= 100) points.push({ x: end - 1, y: 0 });
  return {
    label: RUNS[run].name,
    data: points,
    borderColor: runColour(run),
    borderDash: run >= 8 ? [5, 4] : [],
    borderWidth: run === state.run ? 2.5 : 1.5,
    pointRadius: 0,
    pointHitRadius: 6,
  };
}

function drawCurves() {
  const sets = RUNS.map((_, run) => curveSet(run, state.class)).filter(Boolean);
  curves?.destroy();
  curves = new Chart(byId('pr'), {
    type: 'line',
    data: { datasets: sets },
    options: {
      animation: false,
      maintainAspectRatio: false,
      parsing: false,
      scales: {
        x: axis('recall', { type: 'linear', min: 0, max: 100, ticks: { stepSize: 25 } }),
        y: axis('precision', { min: 0, max: 100, ticks: { stepSize: 25 } }),
      },
      plugins: {
        legend: { display: RUNS.length <= 8, position: 'bottom',
          labels: { color: style('--text'), boxWidth: 14, boxHeight: 2 } },
        tooltip: { mode: 'nearest', intersect: false, callbacks: {
          title: (items) => `recall ${items[0].raw.x} %`,
          label: (item) => `${item.dataset.label}: precision ${item.raw.y} %` } },
      },
    },
  });
}

function startCharts() {
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.font.size = 12;
  const modes = RUNS.length > 1 ? [['ap', 'AP'], ['change', `Change to ${RUNS[0].name}`]] : [];
  segments(byId('scatter-mode'), modes, 'mode');
  segments(byId('pr-iou'), [['pr50', 'IoU 0.5'], ['pr75', '0.75']], 'iou');
  listen(['run', 'mode'], drawScatter);
  listen(['class'], markScatter);
  listen(['class', 'run', 'iou'], drawCurves);
  const redraw = () => { drawScatter(); drawCurves(); };
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  redraw();
}
