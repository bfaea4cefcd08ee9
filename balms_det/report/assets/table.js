// The table of classes: sorted by any column, searched, filtered by frequency group.

const COLUMNS = [
  { key: 'name', label: 'Class', value: (k) => CLASSES.names[k], text: true },
  { key: 'group', label: 'Group', value: (k) => 'rcf'.indexOf(CLASSES.groups[k] ?? 'x') },
  { key: 'count', label: DATASET.counted === 'training' ? 'Train' : 'Images', value: (k) => CLASSES.counts[k],
    title: `${DATASET.counted} images of the class` },
  { key: 'instances', label: 'Inst.', value: (k) => CLASSES.instances[k],
    title: 'ground-truth instances in the evaluated images' },
  ...RUNS.map((run, index) => ({ key: `ap${index}`, label: run.name, ap: true,
    value: (k) => run.ap[k], title: `AP, ${run.name}` })),
  ...(RUNS.length > 1 ? [{ key: 'change', label: 'Change', change: true,
    value: (k) => minus(RUNS[state.run].ap[k], RUNS[0].ap[k]),
    title: 'AP of the run looked at, minus that of the first' }] : []),
];
const sorting = { column: COLUMNS[2], ascending: true };
const shownGroups = new Set();
let annotatedOnly = false; // only classes that the evaluated images hold
const collator = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });
let rows = [];

function cell(column, k) {
  const value = column.value(k);
  if (column.key === 'group') return el('td', {}, groupMark(CLASSES.groups[k]));
  if (column.text) return el('th', { scope: 'row', textContent: value });
  if (column.change) {
    const tone = value === null || Math.abs(value) < 0.05 ? '' : value > 0 ? ' up' : ' down';
    return el('td', { className: `number${tone}`, textContent: value === null ? '–' : signed(value) });
  }
  return el('td', { className: 'number', textContent: column.ap ? percent(value) : whole(value) });
}

function makeRow(k) {
  const row = el('tr', { tabIndex: -1, onclick: () => select(k) });
  row.dataset.class = k;
  row.append(...COLUMNS.map((column) => cell(column, k)));
  return row;
}

function compare(a, b) {
  const x = sorting.column.value(a);
  const y = sorting.column.value(b);
  if (x === null || y === null) return (x === null) - (y === null) || a - b; // undefined ones last
  const order = sorting.column.text ? collator.compare(x, y) : x - y;
  return (sorting.ascending ? order : -order) || a - b;
}

function sortRows() {
  const order = rows.map((_, k) => k).sort(compare);
  byId('table').tBodies[0].replaceChildren(...order.map((k) => rows[k]));
  for (const header of byId('table').tHead.rows[0].cells) {
    const mine = header.dataset.key === sorting.column.key;
    const direction = sorting.ascending ? 'ascending' : 'descending';
    header.setAttribute('aria-sort', mine ? direction : 'none');
  }
}

function sortBy(column) {
  const first = column.text || column.key === 'count' || column.key === 'group';
  sorting.ascending = sorting.column === column ? !sorting.ascending : first;
  sorting.column = column;
  sortRows();
}

function filterRows() {
  const query = byId('search').value.trim().toLowerCase();
  const words = query.split(/\s+/);
  let shown = 0;
  rows.forEach((row, k) => {
    const name = CLASSES.names[k].toLowerCase();
    const fits = (query === String(CLASSES.ids[k]) || words.every((word) => name.includes(word)))
      && (shownGroups.size === 0 || shownGroups.has(CLASSES.groups[k]))
      && (!annotatedOnly || CLASSES.instances[k] > 0);
    row.hidden = !fits;
    shown += fits;
  });
  byId('table').closest('.scroll').scrollTop = 0;
  byId('shown').textContent = shown === rows.length ? plural(shown, 'class')
    : `${whole(shown)} of ${plural(rows.length, 'class')}`;
}

function chip(pressed, children, toggle) {
  const button = el('button', { type: 'button', 'aria-pressed': String(pressed) }, ...children);
  button.addEventListener('click', () => {
    button.setAttribute('aria-pressed', String(toggle()));
    filterRows();
  });
  return button;
}

function filterChips() {
  const chips = Object.keys(GROUPS).filter((group) => CLASSES.groups.includes(group)).map((group) => {
    const count = CLASSES.groups.filter((own) => own === group).length;
    return chip(false, [groupMark(group), `${GROUPS[group]} ${whole(count)}`], () => {
      if (!shownGroups.delete(group)) shownGroups.add(group);
      return shownGroups.has(group);
    });
  });
  if (CLASSES.instances.includes(0)) {
    chips.push(chip(false, ['with instances'], () => { annotatedOnly = !annotatedOnly; return annotatedOnly; }));
  }
  byId('groups').replaceChildren(...chips);
}

function markRow() {
  byId('table').querySelector('tr[aria-selected]')?.removeAttribute('aria-selected');
  rows[state.class].setAttribute('aria-selected', 'true');
  const box = byId('table').closest('.scroll');
  const row = rows[state.class];
  const top = row.offsetTop - byId('table').tHead.offsetHeight;
  if (top < box.scrollTop) box.scrollTop = top;
  if (row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight) {
    box.scrollTop = row.offsetTop + row.offsetHeight - box.clientHeight;
  }
}

// Arrow keys move through the rows that are shown.
function moveSelection(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const shown = [...byId('table').tBodies[0].rows].filter((row) => !row.hidden);
  const next = shown[shown.indexOf(rows[state.class]) + step];
  if (next) select(Number(next.dataset.class));
}

function updateChange() {
  const at = COLUMNS.findIndex((column) => column.change);
  if (at < 0) return;
  rows.forEach((row, k) => row.cells[at].replaceWith(cell(COLUMNS[at], k)));
  if (sorting.column === COLUMNS[at]) sortRows();
}

function startTable() {
  const header = el('tr', {}, ...COLUMNS.map((column) => el('th', { scope: 'col',
    'data-key': column.key, className: column.text ? '' : 'number', title: column.title ?? '' },
  el('button', { type: 'button', textContent: column.label, onclick: () => sortBy(column) }))));
  byId('table').tHead.replaceChildren(header);
  rows = CLASSES.names.map((_, k) => makeRow(k));
  sortRows();
  filterChips();
  filterRows();
  byId('search').addEventListener('input', filterRows);
  const box = byId('table').closest('.scroll');
  box.tabIndex = 0;
  box.addEventListener('keydown', moveSelection);
  listen(['class'], markRow);
  listen(['run'], updateChange);
}
