// The pictures of the selected class; outlines are drawn over them.

const KINDS = {
  gt: ['Ground truth', 'instance', 'largest first'],
  tp: ['True positives', 'detection', 'highest score first'],
  fp: ['False positives', 'detection', 'highest score first'],
  miss: ['Missed', 'instance', 'largest first'],
};
const shelves = new Map();
for (const shelf of DATA.gallery.shelves) {
  shelves.set(`${shelf.class} ${shelf.kind} ${shelf.run}`, shelf);
}
const shelfOf = (kind, run) =>
  shelves.get(`${state.class} ${kind} ${run}`) ?? { total: 0, examples: [], kind };

function outline(index, kind) {
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', DATA.gallery.outlines[index]);
  path.setAttribute('class', kind);
  return path;
}

function figure(example, kind) {
  const [uri, width, height] = DATA.gallery.pictures[example.c];
  const drawing = document.createElementNS(SVG, 'svg');
  drawing.setAttribute('viewBox', `0 0 ${width} ${height}`);
  if (example.g >= 0) drawing.append(outline(example.g, 'truth'));
  if (example.d >= 0) drawing.append(outline(example.d, kind === 'tp' ? 'right' : 'wrong'));
  return el('span', { className: 'picture' }, el('img', { src: uri, alt: '' }), drawing);
}

// What the caption of an example says: a short line, and all of it for the viewer.
function caption(example, kind) {
  const name = example.k >= 0 ? CLASSES.names[example.k] : null;
  if (kind === 'gt') return '';
  if (kind === 'tp') return `${example.s.toFixed(2)} · IoU ${example.o.toFixed(2)}`;
  if (kind === 'miss') return name === null ? 'not found' : `taken for ${name} ${example.s.toFixed(2)}`;
  if (name === null) return `${example.s.toFixed(2)} · no object`;
  return `${example.s.toFixed(2)} · ${example.k === state.class ? 'second box' : `is ${name}`}`;
}

function tile(example, kind) {
  const text = caption(example, kind);
  const label = `${KINDS[kind][0]}, image ${example.i}${text ? `: ${text}` : ''}`;
  return el('button', { type: 'button', className: 'tile', title: label, 'aria-label': label,
    onclick: () => enlarge(example, kind, label) },
  figure(example, kind), el('span', { className: 'caption', textContent: text }));
}

function enlarge(example, kind, label) {
  byId('viewer').firstElementChild.replaceChildren(
    figure(example, kind), el('p', { textContent: label }));
  byId('viewer').showModal();
}

function shelfSection(kind, run) {
  const shelf = shelfOf(kind, run);
  const [title, noun, order] = KINDS[kind];
  const shown = shelf.examples.length;
  const more = shown === 0 || shown === shelf.total ? '' : `${shown} shown, ${order}`;
  return el('section', { className: `shelf ${kind}` },
    el('h4', {}, title, el('span', { className: 'muted',
      textContent: [plural(shelf.total, noun), more].filter(Boolean).join(' · ') })),
    shown ? el('div', { className: 'tiles' }, ...shelf.examples.map((e) => tile(e, kind))) : null);
}

function drawGallery() {
  const toggle = el('input', { type: 'checkbox', checked: state.outlines,
    onchange: (event) => change({ outlines: event.target.checked }) });
  byId('gallery').replaceChildren(
    el('div', { className: 'card-head' }, el('h3', { textContent: 'Pictures' }),
      DATA.gallery.pictures.length ? el('label', { className: 'muted' }, toggle, 'Outlines')
        : el('span', { className: 'muted', textContent: 'none in this report' })),
    shelfSection('gt', -1),
    ...['tp', 'miss', 'fp'].map((kind) => shelfSection(kind, state.run)));
}

function startGallery() {
  listen(['class', 'run'], drawGallery);
  listen(['outlines'], () => document.body.classList.toggle('plain', !state.outlines));
}
