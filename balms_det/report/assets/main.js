// The head of the page, the table of results, and the start of everything.

const METRICS = Object.keys(RUNS[0].metrics);
const MAIN_METRICS = ['AP', 'APr', 'APc', 'APf', 'AP50', 'AP75', 'APs', 'APm', 'APl'];

function metricCell(metric, run) {
  const value = RUNS[run].metrics[metric];
  const values = RUNS.map((other) => other.metrics[metric]).filter((v) => v !== null);
  const best = RUNS.length > 1 && value !== null && value === Math.max(...values);
  const difference = minus(value, RUNS[0].metrics[metric]);
  return el('td', { className: `number${best ? ' best' : ''}` },
    el('span', { textContent: percent(value) }),
    RUNS.length > 1 ? el('small', { textContent: run === 0 ? '' : signed(difference) }) : null);
}

function drawMetrics() {
  const shown = [...MAIN_METRICS, ...METRICS.filter((m) => m.startsWith('AR@'))];
  const head = el('tr', {}, el('th', { scope: 'col', textContent: 'Run' }),
    ...shown.map((metric) => {
      const group = /^AP[rcf]$/.test(metric) ? metric[2] : null;
      return el('th', { scope: 'col', className: `number ${group ? `of-${group}` : ''}`, textContent: metric,
        title: group ? `AP of ${GROUPS[group]} classes` : '' });
    }));
  const body = RUNS.map((run, index) => el('tr', {},
    el('th', { scope: 'row' }, dot(index), run.name), ...shown.map((m) => metricCell(m, index))));
  byId('metrics').classList.toggle('compared', RUNS.length > 1);
  byId('metrics').replaceChildren(el('thead', {}, head), el('tbody', {}, ...body));
}

function dot(run) {
  const node = el('span', { className: 'dot' });
  node.style.background = `var(--run${run % 8})`;
  return node;
}

function drawTitle() {
  byId('dataset').textContent = DATASET.name;
  byId('facts').textContent = [plural(DATASET.images, 'image'), plural(DATASET.instances, 'instance'),
    plural(CLASSES.names.length, 'class'), `${DATASET.iou} IoU`,
    `${DATASET.max_dets} detections ${DATASET.limited}`].join(' · ');
}

const ENOUGH = 10; // instances that a change of AP needs to mean something

// The class in the address: `#class=12` is the category id, so that a link shows the same class.
function classInAddress() {
  const id = Number(/^#class=(-?\d+)$/.exec(location.hash)?.[1]);
  return CLASSES.ids.indexOf(id);
}

function firstClass() {
  const asked = classInAddress();
  if (asked >= 0) return asked;
  const enough = CLASSES.instances.some((count) => count >= ENOUGH) ? ENOUGH : 0;
  const gains = CLASSES.names.map((_, k) => (CLASSES.instances[k] < enough ? null
    : minus(RUNS[state.run].ap[k], RUNS[0].ap[k])) ?? -Infinity);
  return gains.indexOf(Math.max(...gains)); // the class that changed most for the better
}

function start() {
  drawTitle();
  drawMetrics();
  segments(byId('runs'), RUNS.map((run, index) => [index, run.name]), 'run');
  state.class = firstClass();
  startCharts();
  startTable();
  startGallery();
  startDetail();
  listen(['class'], () => history.replaceState(null, '', `#class=${CLASSES.ids[state.class]}`));
  addEventListener('hashchange', () => classInAddress() >= 0 && select(classInAddress()));
  drawHead();
  drawConfusion();
  drawPairs();
  drawGallery();
  markRow();
}

start();
