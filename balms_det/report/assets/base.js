// The data, what is selected, and how elements and numbers are made. Text from the data becomes
// text nodes only: nothing here or in the other files builds HTML from strings.

const DATA = JSON.parse(document.getElementById('data').textContent);
const { classes: CLASSES, runs: RUNS, dataset: DATASET } = DATA;
const GROUPS = { r: 'rare', c: 'common', f: 'frequent' };
const SVG = 'http://www.w3.org/2000/svg';

const byId = (id) => document.getElementById(id);

// Make an element: properties, `data-`/`aria-` attributes, and event handlers named on...
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (key.includes('-') || key === 'role' || key === 'colspan') node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const whole = (value) => value.toLocaleString('en-US');
const percent = (value) => (value === null || value === undefined ? '–' : value.toFixed(1));
const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? '' : noun.endsWith('s') ? 'es' : 's'}`;

function signed(value) {
  if (value === null) return '';
  const text = Math.abs(value).toFixed(1);
  return text === '0.0' ? '±0.0' : (value > 0 ? '+' : '−') + text;
}

// Difference of two values that may be undefined.
const minus = (a, b) => (a === null || b === null ? null : a - b);

// What is selected; `change` tells everybody who listens.
const state = { run: RUNS.length - 1, class: 0, mode: 'ap', iou: 'pr50', outlines: true };
const listeners = [];

function listen(keys, action) {
  listeners.push({ keys, action });
}

function change(values) {
  const changed = Object.keys(values).filter((key) => state[key] !== values[key]);
  Object.assign(state, values);
  for (const { keys, action } of listeners) {
    if (keys.some((key) => changed.includes(key))) action();
  }
}

function select(index, { scroll = false } = {}) {
  change({ class: index });
  if (scroll) byId('classes').scrollIntoView({ behavior: 'smooth' });
}

// Buttons of which one is pressed.
function segments(parent, options, key) {
  const buttons = options.map(([value, label]) =>
    el('button', { type: 'button', textContent: label, onclick: () => change({ [key]: value }) }));
  parent.replaceChildren(...buttons);
  const mark = () => options.forEach(([value], index) =>
    buttons[index].setAttribute('aria-pressed', String(state[key] === value)));
  listen([key], mark);
  mark();
}

function groupMark(group) {
  return el('span', { className: `group ${group ?? 'none'}`, title: GROUPS[group] ?? 'no group',
    textContent: group ?? '·' });
}

// A class's name as a button that selects it.
function classLink(index) {
  return el('button', { type: 'button', className: 'link', textContent: CLASSES.names[index],
    onclick: () => select(index, { scroll: true }) });
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const groupColour = (group) => style(`--${group ?? 'muted'}`);
const runColour = (run) => style(`--run${run % 8}`);
