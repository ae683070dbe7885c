// The page "Compare any two": chooses, sorts, counts and draws. What is estimated, means, intervals and what they say,
// comes from mnist_lib.site.compare_page by way of compare_data.js.
(() => {
  "use strict";
  const {experiments, differences, meanings, labels, pictured, task, chance} = globalThis.PUBLISHED;
  const find = name => document.getElementById(`compare-${name}`);
  const grouped = count => count.toLocaleString("en");
  const NAMES = {a: "X", b: "Y"};  // of the chosen two; letters from A on are those of public reports
  const state = {column: 0, descending: false, shown: experiments, a: 0, b: 0};  // shown: in the table's order

  // Elements are made, not parsed: no text is ever taken for markup.
  const maker = namespace => (tag, attributes = {}, ...children) => {
    const made = document.createElementNS(namespace, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const html = maker("http://www.w3.org/1999/xhtml"), svg = maker("http://www.w3.org/2000/svg");

  // -- the table of all experiments

  const COLUMNS = [
    {head: "experiment", key: e => experiments.indexOf(e), cell: e => html("a", {href: e.page}, e.label)},
    {head: "mean test accuracy, %", key: e => e.interval[0], cell: e => e.accuracy},
    {head: "parameters", key: e => e.parameters, cell: e => grouped(e.parameters)},
    {head: `seeds at ${task.toFixed(2)} %`, key: e => e.reached / e.runs, cell: e => `${e.reached} of ${e.runs}`},
    {head: "epochs", key: e => e.trained_before + e.epochs,
      cell: e => e.trained_before ? `${e.epochs} after ${e.trained_before}` : e.epochs},
  ];

  function showTable() {
    const {key} = COLUMNS[state.column], sign = state.descending ? -1 : 1;
    const name = find("name").value.trim().toLowerCase(), most = find("most").valueAsNumber;
    const found = experiments.filter(e => e.label.toLowerCase().includes(name) && !(e.parameters > most));
    const order = state.shown = found.sort((one, other) => sign * (key(one) - key(other)));
    const row = e => COLUMNS.map(({cell}, k) => html(k ? "td" : "th", k ? {} : {scope: "row"}, cell(e)));
    find("all").tBodies[0].replaceChildren(...order.map(e => html("tr", {}, ...row(e))));
    find("all").querySelectorAll("thead th").forEach((head, k) => {
      const sorted = k === state.column, arrow = state.descending ? "▼" : "▲";
      if (sorted) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      head.querySelector("span").textContent = sorted ? ` ${arrow}` : " ↕";
    });
    find("count").textContent = `${order.length} of ${experiments.length} experiments shown`;
    drawAccuracies(state.shown);
  }

  function makeHeads() {
    find("all").tHead.rows[0].append(...COLUMNS.map(({head}, k) => {
      const button = html("button", {type: "button"}, head, html("span", {"aria-hidden": "true"}));
      button.addEventListener("click", () => {
        state.descending = k === state.column && !state.descending;
        state.column = k;
        showTable();
      });
      return html("th", {scope: "col"}, button);
    }));
  }

  // -- what both pictures share

  const LEFT = 46, RIGHT = 26, TOP = 24, BOTTOM = 42, TEXT = 14;
  const scale = (low, high, start, end) => value => start + (end - start) * (value - low) / (high - low);
  const text = (x, y, words, anchor = "start") => svg("text", {x, y, "text-anchor": anchor}, words);
  const line = (path, kind = "line") => svg("path", {d: path, class: kind});
  const role = e => e === experiments[state.a] ? "a" : e === experiments[state.b] ? "b" : "other";
  const MARKS = {a: "M-4.5-4.5h9v9h-9Z", b: "M0-6 6 0 0 6-6 0Z", other: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z"};
  const mark = (x, y, kind) => svg("path", {class: "point", d: MARKS[kind], transform: `translate(${x} ${y})`});

  // Round values from low to high, some more or fewer than asked for.
  function ticks(low, high, count) {
    const rough = (high - low) / count, unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find(factor => factor * unit >= 0.7 * rough) * unit, first = Math.ceil(low / step);
    return Array.from({length: Math.floor(high / step) - first + 1}, (_, k) => +((first + k) * step).toPrecision(8));
  }

  // Places in the same order, moved as little as it takes to have a gap between neighbours, and none beyond the end.
  function apart(places, gap, end = Infinity) {
    const order = places.map((_, k) => k).sort((one, other) => places[one] - places[other]);
    const mean = block => block.sum / block.members.length, blocks = [], moved = [];
    order.forEach((k, n) => {
      let block = {sum: places[k] - n * gap, members: [k]};
      while (blocks.length && mean(blocks.at(-1)) > mean(block)) {
        const before = blocks.pop();
        block = {sum: before.sum + block.sum, members: [...before.members, ...block.members]};
      }
      blocks.push(block);
    });
    const last = end - gap * (places.length - 1);
    let n = 0;
    for (const block of blocks) for (const k of block.members) moved[k] = Math.min(mean(block), last) + gap * n++;
    return moved;
  }

  // Empty a picture, and give it its words for readers who cannot see it.
  function label(picture, title, words) {
    const {id} = picture;
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-labelledby", `${id}-title ${id}-words`);
    picture.replaceChildren(svg("title", {id: `${id}-title`}, title), svg("desc", {id: `${id}-words`}, words));
  }

  // An empty picture with its axes.
  function frame(picture, {title, words, x, y, xs, ys, xName, yName}) {
    const {id, clientWidth: width, clientHeight: height} = picture, bottom = height - BOTTOM;
    label(picture, title, words);
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.append(text(0, TEXT - 3, yName),
      ...ys.flatMap(value => [line(`M${LEFT} ${y(value)}H${width - RIGHT}`, "grid"),
        text(LEFT - 6, y(value) + 4, value.toFixed(2), "end")]),
      ...xs.map(value => text(x(value), bottom + 18, grouped(value), "middle")),
      text((LEFT + width - RIGHT) / 2, height - 4, xName, "middle"),
      line(`M${LEFT} ${y(task)}H${width - RIGHT}`, "bound"),
      svg("clipPath", {id: `${id}-clip`}, svg("rect", {x: LEFT, y: 0, width: width - LEFT, height: bottom})));
    return svg("g", {"clip-path": `url(#${id}-clip)`});
  }

  // -- every accuracy with its interval, a row each, in the order of the table

  const ROW = 24, NARROW = 500, CAPTION = 15;

  function drawAccuracies(shown) {
    const picture = find("accuracies"), width = picture.clientWidth;
    if (!width) return;  // not laid out yet
    const narrow = width < NARROW, left = narrow ? 8 : 250, row = ROW + (narrow ? CAPTION : 0);  // names above, or beside
    const height = TOP + row * shown.length + BOTTOM, bottom = height - BOTTOM, middle = k => TOP + row * (k + 1) - ROW / 2;
    picture.style.height = `${height}px`;
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const ends = experiments.flatMap(({interval}) => interval.filter(value => value !== null));
    const air = (Math.max(...ends) - Math.min(...ends)) * 0.04 || 0.1;
    const low = Math.min(task, ...ends) - air, high = Math.max(task, ...ends) + air;
    const x = scale(low, high, left, width - RIGHT);
    const words = shown.map(e => `${e.label}: ${grouped(e.parameters)} parameters, ${e.accuracy} %`).join("; ");
    label(picture, "Mean test accuracy after the last epoch", `${words || "No experiment is shown"}.`);
    picture.append(
      ...ticks(low, high, narrow ? 3 : 6).flatMap(value => [line(`M${x(value)} ${TOP}V${bottom}`, "grid"),
        text(x(value), bottom + 18, value.toFixed(2), "middle")]),
      line(`M${x(task)} ${TOP}V${bottom}`, "bound"), text(x(task), TOP - 6, task.toFixed(2), "middle"),
      text(width - RIGHT, height - 4, "mean test accuracy, %", "end"));
    shown.forEach((e, k) => {
      const [center, least, most] = e.interval, kind = role(e), y = middle(k), size = grouped(e.parameters);
      const name = kind in NAMES ? `${NAMES[kind]}, ${e.label}` : e.label;
      const caption = narrow ? [text(left, y - ROW / 2 - 1, `${name}, ${size}`)]
        : [text(0, y + 4, name), text(left - 16, y + 4, size, "end")];
      const whisker = least === null ? [] : [line(`M${x(least)} ${y}H${x(most)}`)];
      const hint = svg("title", {}, `${e.label}: ${size} parameters, ${e.accuracy} %`);
      picture.append(svg("g", {class: kind}, hint, ...caption, ...whisker, mark(x(center), y, kind)));
    });
  }

  // -- the chosen two

  const chosen = () => [experiments[state.a], experiments[state.b]];
  const named = (kind, e) => `${NAMES[kind]}, ${e.label}`;

  function drawCurves() {
    const picture = find("curves"), {clientWidth: width, clientHeight: height} = picture, pair = chosen();
    if (!width) return;  // not laid out yet
    const epochs = Math.max(2, ...pair.map(e => e.epochs));
    const later = pair.flatMap(({curve: [means]}) => means.slice(means.length >> 1));
    const low = Math.min(99, ...later) - 0.1, high = Math.max(task, ...pair.flatMap(e => e.curve[2])) + 0.05;
    const x = scale(1, epochs, LEFT + 6, width - RIGHT), y = scale(low, high, height - BOTTOM, TOP);
    const words = pair.map((e, k) => `${named("ab"[k], e)}: ${e.course}.`);
    const inside = frame(picture, {title: `Learning curves of ${pair[0].label} and ${pair[1].label}`,
      words: words.join(" "), x, y, xs: ticks(1, epochs, Math.min(epochs - 1, 8)), ys: ticks(low, high, 6),
      xName: "epoch", yName: "test accuracy, %"});
    const above = y(task) - TOP > TEXT;  // else it would be on the axis' name
    picture.append(inside, text(LEFT + 4, y(task) + (above ? -5 : TEXT), `${task.toFixed(2)} %`));
    const ends = apart(pair.map(e => y(e.curve[0].at(-1))), TEXT);
    pair.forEach(({curve: [means, least, most], epochs: last}, k) => {
      const points = values => values.map((value, epoch) => `${x(epoch + 1)} ${y(value)}`);
      const area = [...points(most), ...points(least).reverse()].join("L"), kind = "ab"[k];
      inside.append(svg("g", {class: kind}, line(`M${area}Z`, "band"), line(`M${points(means).join("L")}`),
        ...means.map((value, epoch) => mark(x(epoch + 1), y(value), kind))));
      picture.append(svg("g", {class: kind}, text(x(last) + 9, ends[k] + 4, NAMES[kind])));
    });
  }

  function showDifference() {
    const [a, b] = chosen(), [interval, meaning] = differences[state.a][state.b];
    const size = e => `${e.runs} ${e.runs === 1 ? "run" : "runs"}, ${grouped(e.parameters)} parameters`;
    const about = e => `${e.accuracy} %, ${size(e)}`;
    find("difference").replaceChildren(
      "From ", html("strong", {}, named("a", a)), ", to ", html("strong", {}, named("b", b)), ": ",
      html("strong", {id: "compare-interval"}, interval), " percentage points, ",
      html("span", {id: "compare-meaning"}, meanings[meaning]), ".",
      html("br"), `${NAMES.a}: ${about(a)}.`, html("br"), `${NAMES.b}: ${about(b)}.`);
  }

  // -- the images that most runs of one misread and most runs of the other do not

  const place = Object.fromEntries(Object.keys(labels).map((index, k) => [index, k]));
  const answered = new Map(experiments.map(e => [e, e.mistakes.split(",")]));
  const answers = (e, index) => [...answered.get(e)[place[index]]];
  const misread = (e, index) => answers(e, index).length > e.runs / 2;

  function taken(e, index) {
    const counts = new Map();
    for (const answer of answers(e, index)) counts.set(answer, (counts.get(answer) ?? 0) + 1);
    const order = [...counts].sort((one, other) => other[1] - one[1]);
    return order.map(([digit, count]) => `${digit} (${count})`).join(", ");
  }

  // All pictures are one, one below the other.
  function picture(index) {
    if (!pictured.length) return [];
    const words = `Test image ${index}, a ${labels[index]}`, style = `--place: ${pictured.indexOf(+index)}`;
    return [html("td", {}, html("span", {class: "picture", role: "img", "aria-label": words, style}))];
  }

  function showImages() {
    const [a, b] = chosen(), all = Object.keys(labels), share = (e, index) => answers(e, index).length / e.runs;
    const contrast = index => Math.abs(share(a, index) - share(b, index));
    const differing = all.filter(index => misread(a, index) !== misread(b, index));
    const onlyA = differing.filter(index => misread(a, index)).length;
    const both = all.filter(index => misread(a, index) && misread(b, index)).length;
    const images = count => `${grouped(count)} ${count === 1 ? "image" : "images"}`;
    find("agreement").textContent =
      `Misread by most runs of ${named("a", a)}, and not of ${NAMES.b}: ${images(onlyA)}. The other way round, of ` +
      `${named("b", b)}, and not of ${NAMES.a}: ${images(differing.length - onlyA)}. These are in the table. ` +
      `Misread by most runs of both, and not in the table: ${images(both)}.`;
    const ofEach = name => [`${name}: wrong runs`, `${name}: taken for`];
    const heads = ["image", ...(pictured.length ? ["picture"] : []), "label", ...Object.values(NAMES).flatMap(ofEach)];
    find("images").tHead.replaceChildren(html("tr", {}, ...heads.map(head => html("th", {scope: "col"}, head))));
    differing.sort((one, other) => contrast(other) - contrast(one) || one - other);
    find("images").tBodies[0].replaceChildren(...differing.map(index => html("tr", {},
      html("th", {scope: "row"}, index), ...picture(index), html("td", {}, labels[index]), ...[a, b].flatMap(e =>
        [html("td", {}, `${answers(e, index).length} of ${e.runs}`), html("td", {}, taken(e, index) || "–")]))));
  }

  function choose(a, b) {
    Object.assign(state, {a, b});
    find("a").value = a;
    find("b").value = b;
    showDifference();
    showImages();
    drawAccuracies(state.shown);
    drawCurves();
  }

  // -- the address holds the chosen two, after the #, by name

  function chooseFromAddress() {
    const [a, b] = location.hash.slice(1).split("+").map(name => experiments.findIndex(e => e.name === name));
    if (a >= 0 && b >= 0 && a !== b) choose(a, b);
  }

  function chooseByReader(a, b) {
    choose(a, b);
    history.replaceState(null, "", `#${chosen().map(e => e.name).join("+")}`);
  }

  const swap = () => chooseByReader(state.b, state.a);

  function start() {
    for (const part of document.querySelectorAll(".compare")) part.hidden = part.id === "compare-nothing";
    find("no-pictures").hidden = pictured.length > 0;
    find("chance").textContent = chance;
    makeHeads();
    for (const kind of ["a", "b"]) {
      find(kind).append(...experiments.map((e, k) => html("option", {value: k}, e.label)));
      find(kind).addEventListener("change", () => {
        const [a, b] = [+find("a").value, +find("b").value];
        if (a === b) swap();
        else chooseByReader(a, b);
      });
    }
    find("swap").addEventListener("click", swap);
    for (const name of ["name", "most"]) find(name).addEventListener("input", showTable);
    addEventListener("hashchange", chooseFromAddress);
    const redraw = new ResizeObserver(() => { drawAccuracies(state.shown); drawCurves(); });
    for (const name of ["accuracies", "curves"]) redraw.observe(find(name));
    const mean = k => experiments[k].interval[0], place = name => experiments.findIndex(e => e.name.startsWith(name));
    const [best, second] = experiments.map((_, k) => k).sort((one, other) => mean(other) - mean(one));
    const last = ["iteration_09", "iteration_10"].map(place);  // the change that reached the task
    choose(...(Math.min(...last) >= 0 ? last : [best, second]));
    chooseFromAddress();
    showTable();
  }

  if (experiments.length > 1) start();
  else find("nothing").hidden = false;
})();
