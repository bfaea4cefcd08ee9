// The selected class in figures, what its instances are taken for, and the pairs that are confused.

const NOT_FOUND = CLASSES.names.length;
const LISTED = 6;

function drawHead() {
  const k = state.class;
  const facts = [
    `${whole(CLASSES.counts[k])} ${DATASET.counted} images`,
    `${plural(CLASSES.instances[k], 'instance')} in ${plural(CLASSES.images[k], 'image')}`,
    `id ${CLASSES.ids[k]}`,
  ];
  const figures = RUNS.map((run, index) => el('div', { className: 'figure' },
    el('span', { className: 'muted', textContent: run.name }),
    el('strong', { textContent: percent(run.ap[k]) }),
    el('span', { className: 'muted',
      textContent: `AP50 ${percent(run.ap50[k])} · AP75 ${percent(run.ap75[k])}` })));
  figures.forEach((node, index) => node.style.setProperty('--colour', `var(--run${index % 8})`));
  byId('detail-head').replaceChildren(
    el('h2', { className: 'name' }, el('span', { textContent: CLASSES.names[k] }),
      groupMark(CLASSES.groups[k])),
    el('p', { className: 'muted', textContent: facts.join(' · ') }),
    el('div', { className: 'figures' }, ...figures));
}

function bar(label, count, total, kind) {
  const share = total ? (100 * count) / total : 0;
  const node = el('li', { className: `share ${kind}` }, label,
    el('span', { className: 'number', textContent: whole(count) }));
  node.style.setProperty('--share', `${share}%`);
  return node;
}

function takenFor(cells, k) {
  const mine = cells.filter(([row]) => row === k).sort((a, b) => b[2] - a[2]);
  const total = CLASSES.instances[k];
  const count = (column) => mine.find((entry) => entry[1] === column)?.[2] ?? 0;
  const others = mine.filter((entry) => entry[1] !== k && entry[1] !== NOT_FOUND).slice(0, LISTED);
  const listed = others.reduce((sum, entry) => sum + entry[2], count(k) + count(NOT_FOUND));
  const row = (text, n, kind) => bar(el('span', { textContent: text }), n, total, kind);
  return [
    row('itself', count(k), 'right'),
    ...others.map(([, column, n]) => bar(classLink(column), n, total, 'wrong')),
    ...(total > listed ? [row('other classes', total - listed, 'wrong')] : []),
    row('not found', count(NOT_FOUND), 'lost'),
  ];
}

function takenForIt(cells, k) {
  const others = cells.filter(([row, column]) => column === k && row !== k)
    .sort((a, b) => b[2] - a[2]).slice(0, LISTED);
  return others.map(([row, , n]) => bar(classLink(row), n, CLASSES.instances[row], 'wrong'));
}

function drawConfusion() {
  const cells = RUNS[state.run].confusion;
  const into = takenForIt(cells, state.class);
  byId('confusion').replaceChildren(
    el('h4', { textContent: 'Its instances are taken for' }),
    el('ul', { className: 'shares' }, ...takenFor(cells, state.class)),
    el('h4', { textContent: 'Taken for it are' }),
    into.length ? el('ul', { className: 'shares' }, ...into)
      : el('p', { className: 'muted', textContent: 'no instances of other classes' }));
}

function drawPairs() {
  const pairs = RUNS[state.run].confusion
    .filter(([row, column]) => row !== column && column !== NOT_FOUND)
    .sort((a, b) => b[2] - a[2]).slice(0, 10);
  byId('confused').replaceChildren(...pairs.map(([row, column, count]) => el('li', {},
    el('span', { className: 'pair-names' }, groupMark(CLASSES.groups[row]), classLink(row),
      el('span', { className: 'muted', textContent: '→' }), classLink(column)),
    el('span', { className: 'number', title: 'of its instances',
      textContent: `${whole(count)} of ${whole(CLASSES.instances[row])}` }))));
}

function startDetail() {
  listen(['class'], drawHead);
  listen(['class', 'run'], drawConfusion);
  listen(['run'], drawPairs);
}
