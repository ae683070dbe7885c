// The page "Draw a digit": a field to draw in, and networks of the report, computed in the reader's browser.
//
// When the book is compiled, `mnist_lib.site.draw_page` writes networks.js, which lists the networks and their layers,
// and for each network a script with its weights. Heavy ones are loaded when the reader's first stroke needs them.
(() => {
  "use strict";
  const FOLDER = new URL("networks/", document.currentScript.src);
  const {networks, missing, tooMuch, weights: encoded} = window.drawADigitData;
  const IMAGE = 28, BOX = 20, CENTRE = 14;  // pixels: MNIST's image, the box of its digits, where their mass lies
  const PAPER = 280, PEN = 22, STEP = 10;  // pixels of the drawing: its side, the pen's width, the pen's step by key
  const WIDEST = 50;  // numbers in a row, where a layer has no maps
  const HEAVY = 100_000;  // bytes: so large a script of weights waits for the reader's first stroke

  // -- The networks. A signal is a Float64Array: channel by channel, row by row.

  function dot(matrix, from, vector) {
    let a = 0, b = 0, c = 0, d = 0, n = 0;
    for (; n + 3 < vector.length; n += 4) {
      a += matrix[from + n] * vector[n];
      b += matrix[from + n + 1] * vector[n + 1];
      c += matrix[from + n + 2] * vector[n + 2];
      d += matrix[from + n + 3] * vector[n + 3];
    }
    for (; n < vector.length; n++) a += matrix[from + n] * vector[n];
    return a + b + c + d;
  }

  function padded(signal, channels, side, padding) {
    const wide = side + 2 * padding, values = new Float64Array(channels * wide * wide);
    for (let row = 0; row < channels * side; row++) {
      const above = (2 * Math.floor(row / side) + 1) * padding;
      values.set(signal.subarray(row * side, (row + 1) * side), (row + above) * wide + padding);
    }
    return values;
  }

  const mean = values => values.reduce((sum, value) => sum + value) / values.length;

  // What `merged` makes of the numbers in a window, for each place at which the window lies.
  function pooled({kernel, stride, shape: [channels, outside]}, signal, side, merged) {
    const window = new Float64Array(kernel * kernel);
    return Float64Array.from({length: channels * outside * outside}, (_, place) => {
      const row = Math.floor(place / outside), channel = Math.floor(row / outside);
      const from = (channel * side + row % outside * stride) * side + place % outside * stride;
      for (let n = 0; n < window.length; n++) window[n] = signal[from + Math.floor(n / kernel) * side + n % kernel];
      return merged(window);
    });
  }

  const LAYERS = {
    Conv2d({kernel, stride, padding, groups, shape: [outputs, outside]}, signal, [channels, side], {weight, bias}) {
      const inside = side + 2 * padding, size = outside * outside, values = new Float64Array(outputs * size);
      const source = padding ? padded(signal, channels, side, padding) : signal;
      const read = channels / groups, made = outputs / groups;  // maps that a group reads, and puts out
      const patch = new Float64Array(read * kernel * kernel);
      for (let place = 0; place < size; place++) {
        const from = (Math.floor(place / outside) * inside + place % outside) * stride;
        for (let group = 0; group < groups; group++) {
          for (let channel = group * read, n = 0; channel < (group + 1) * read; channel++) {
            for (let y = 0; y < kernel; y++) {
              const start = from + (channel * inside + y) * inside;
              for (let x = 0; x < kernel; x++) patch[n++] = source[start + x];
            }
          }
          for (let output = group * made; output < (group + 1) * made; output++) {
            values[output * size + place] = dot(weight, output * patch.length, patch) + (bias ? bias[output] : 0);
          }
        }
      }
      return values;
    },
    BatchNorm2d({eps, shape: [channels]}, signal, _, {weight, bias, running_mean, running_var}) {
      const size = signal.length / channels, values = new Float64Array(signal.length);
      for (let channel = 0, n = 0; channel < channels; channel++) {
        const deviation = Math.sqrt(running_var[channel] + eps);
        for (; n < (channel + 1) * size; n++) {
          values[n] = (signal[n] - running_mean[channel]) / deviation * weight[channel] + bias[channel];
        }
      }
      return values;
    },
    ReLU: (_, signal) => signal.map(value => value > 0 ? value : 0),
    MaxPool2d: (layer, signal, [, side]) => pooled(layer, signal, side, window => Math.max(...window)),
    AvgPool2d: (layer, signal, [, side]) => pooled(layer, signal, side, mean),
    AdaptiveAvgPool2d({shape: [channels]}, signal) {
      const size = signal.length / channels;
      return Float64Array.from({length: channels}, (_, channel) =>
        mean(signal.subarray(channel * size, (channel + 1) * size)));
    },
    Linear: ({shape: [outputs]}, signal, _, {weight, bias}) =>
      Float64Array.from({length: outputs}, (_, n) => dot(weight, n * signal.length, signal) + (bias ? bias[n] : 0)),
    Sum: ({of}, signal, _, __, signals) => signal.map((value, n) => value + signals[of][n]),
    Same: (_, signal) => signal,
  };

  const tensors = new Map();

  function decode(network) {
    const bytes = Uint8Array.from(atob(encoded[network.name]), letter => letter.charCodeAt(0));
    const numbers = Float64Array.from(new Float32Array(bytes.buffer));
    return network.layers.map(layer => Object.fromEntries(
      Object.entries(layer.tensors).map(([key, [from, length]]) => [key, numbers.subarray(from, from + length)])));
  }

  // The image of 784 grey levels from 0 to 1, normalised, then the output of every layer.
  function run(network, pixels) {
    if (!tensors.has(network)) tensors.set(network, decode(network));
    const read = seen(network, pixels).pixels.map(value => (value - network.mean) / network.std), signals = [read];
    let shape = [1, IMAGE, IMAGE];
    network.layers.forEach((layer, n) => {
      signals.push(LAYERS[layer.kind](layer, signals[n], shape, tensors.get(network)[n], signals));
      shape = layer.shape;
    });
    return signals;
  }

  // What a network makes of an image before anything else: one that was trained on deskewed images deskews it, too.
  // As mnist_lib.augmentation.deskew: row y is read from `slope` · (y − `middle`) further right.
  function seen(network, pixels) {
    if (!network.deskewed) return {pixels: Float64Array.from(pixels), slope: 0, middle: 0};
    let mass = 0, sumX = 0, sumY = 0, sumXY = 0, sumYY = 0;
    pixels.forEach((value, n) => {
      const y = Math.floor(n / IMAGE), x = n % IMAGE;
      mass += value;
      sumX += value * x;
      sumY += value * y;
      sumXY += value * x * y;
      sumYY += value * y * y;
    });
    mass = Math.max(mass, 1e-6);
    const middle = sumY / mass, covariance = sumXY / mass - sumX / mass * middle;
    const slope = Math.max(-1, Math.min(covariance / Math.max(sumYY / mass - middle ** 2, 1e-6), 1));
    const at = (y, x) => x < 0 || x >= IMAGE ? 0 : pixels[y * IMAGE + x];
    return {slope, middle, pixels: Float64Array.from(pixels, (_, n) => {
      const y = Math.floor(n / IMAGE), from = n % IMAGE + slope * (y - middle), left = Math.floor(from);
      return at(y, left) * (left + 1 - from) + at(y, left + 1) * (from - left);
    })};
  }

  function probabilities(logits) {
    const largest = Math.max(...logits), powers = Array.from(logits, value => Math.exp(value - largest));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map(power => power / sum);
  }

  // The rows of the image that a unit in row `n` of a layer sees: the first, and the one after the last. Columns alike.
  function field(layer, n) {
    const first = layer.start + n * layer.jump;
    return [Math.max(first, 0), Math.min(first + layer.field, IMAGE)];
  }

  const loading = new Map(), loaded = ({name}) => name in encoded;
  function load(wanted = networks) {
    return Promise.all(wanted.map(network => {
      if (!loading.has(network)) loading.set(network, fetched(network));
      return loading.get(network);
    }));
  }

  function fetched(network) {
    return new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = new URL(`${network.name}.js`, FOLDER);
      script.onload = done;
      script.onerror = () => {
        loading.delete(network);  // the next stroke tries again
        failed(new Error(`The weights of ${network.name} could not be loaded.`));
      };
      document.head.append(script);
    });
  }

  // -- The drawing, prepared as MNIST was.

  // For each pixel of a side, `scale` places wide, from `first` on: which places of the drawing it covers, how much.
  function shares(first, last, scale) {
    return Array.from({length: Math.ceil((last - first) / scale - 1e-9)}, (_, n) => {
      const from = first + n * scale, to = from + scale, covered = [];
      for (let place = Math.floor(from); place < Math.min(to, last); place++) {
        covered.push([place, (Math.min(place + 1, to) - Math.max(place, from)) / scale]);
      }
      return covered;
    });
  }

  // The image that the networks see, and where its first pixel lies in the drawing; null if nothing is drawn.
  // `ink` has PAPER × PAPER numbers from 0 to 255.
  function prepare(ink) {
    let top = PAPER, bottom = 0, left = PAPER, right = 0;
    ink.forEach((value, n) => {
      if (!value) return;
      const y = Math.floor(n / PAPER), x = n % PAPER;
      top = Math.min(top, y);
      bottom = Math.max(bottom, y + 1);
      left = Math.min(left, x);
      right = Math.max(right, x + 1);
    });
    if (!bottom) return null;
    const scale = Math.max(bottom - top, right - left) / BOX;
    const rows = shares(top, bottom, scale), columns = shares(left, right, scale);
    const mean = (row, column) => row.reduce((sum, [y, high]) =>
      sum + column.reduce((part, [x, wide]) => part + high * wide * ink[y * PAPER + x], 0), 0);
    const grey = rows.map(row => columns.map(column => Math.round(mean(row, column))));
    const total = numbers => numbers.reduce((a, b) => a + b);
    const place = masses => {  // as many pixels away from the border as bring the centre of mass to the middle
      const middle = total(masses.map((mass, n) => n * mass)) / Math.max(total(masses), 1e-9);
      return Math.max(0, Math.min(Math.round(CENTRE - middle), IMAGE - masses.length));
    };
    const down = place(grey.map(total)), across = place(columns.map((_, x) => total(grey.map(row => row[x]))));
    const pixels = new Float64Array(IMAGE * IMAGE);
    grey.forEach((row, y) => row.forEach((value, x) => { pixels[(y + down) * IMAGE + x + across] = value / 255; }));
    return {pixels, scale, x: left - across * scale, y: top - down * scale};
  }

  // -- The page.

  const EXAMPLES = {  // strokes, each a list of points
    "a neat 3": [[[84, 80], [100, 58], [136, 44], [170, 52], [184, 80], [174, 108], [148, 126], [124, 130], [154, 132],
      [184, 150], [194, 182], [182, 214], [148, 234], [112, 230], [80, 206]]],
    "a 4 or a 9": [[[139, 55], [104, 84], [98, 116], [112, 138], [142, 140], [184, 122]],
      [[178, 54], [184, 122], [178, 180], [172, 236]]],
    "a letter": [[[140, 44], [70, 232]], [[140, 44], [210, 232]], [[94, 168], [186, 168]]],
  };
  const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  const NOTHING = networks.length ? "Nothing is drawn." : "This book was compiled without trained networks.";
  const HINT = "Point at a unit of a map, tap it, or go to a layer with the Tab key and move with the arrow keys; " +
    "Page Up and Page Down change the map. A frame shows what the unit sees, here and in your drawing.";
  const IMAGE_IS = "The image: 28 × 28 grey levels, made from your drawing as is described below. Before the first layer " +
    "the mean of MNIST's pixels is subtracted from each, and the result is divided by their standard deviation.";
  const UPRIGHT = "It was trained on images that had been set upright: each was sheared until it leaned to neither " +
    "side. So your drawing is sheared in the same way before this network reads it.";
  // Which of the maps before it a new map of a convolution is made of.
  function mapsRead(channels, groups) {
    if (channels === 1) return "the map";
    if (groups === 1) return `each of the ${channels} maps`;
    return groups === channels ? "one of the maps" : `each of ${channels / groups} of the maps`;
  }

  // What a layer does, in words.
  const DOES = {
    Conv2d: ({kernel, stride, padding, groups, shape: [maps]}, [channels]) => `Each of the ${maps} new maps has ` +
      `${kernel * kernel * channels / groups} weights of its own: a window of ${kernel} × ${kernel} places for ` +
      `${mapsRead(channels, groups)} before it. The window slides; wherever it lies, ` +
      "numbers and weights are multiplied, and the products added up." +
      (stride > 1 ? ` It moves on by ${stride} places at a time.` : "") +
      (padding ? " Around the maps lie zeros, so that their border can be read like the middle." : ""),
    BatchNorm2d: () => "Each map is moved and stretched, by two numbers that training chose for it, so that what comes " +
      "next meets numbers of a familiar size.",
    ReLU: () => "What is below zero becomes zero, and all else stays.",
    MaxPool2d: ({kernel}) => `Of each ${kernel} × ${kernel} places only the largest number is kept.`,
    AvgPool2d: ({kernel, stride}) => `Of each ${kernel} × ${kernel} places only the mean is kept` +
      (stride < kernel ? ", and neighbouring windows overlap." : "."),
    AdaptiveAvgPool2d: () => "Of each map one number is left, its mean: what was found counts, and no longer where.",
    Linear: () => "Each new number is a weighted sum of all numbers before it.",
    Sum: ({of}) => `To each number is added the one that stood in its place after ${of ? `layer ${of}` : "step 0"}. So ` +
      "the layers between need to learn only what to change.",
    Same: () => "It leaves every number as it is.",
  };
  const TEMPLATE = `
    <div class="columns">
      <div>
        <div class="paper"><canvas class="drawing" width="${PAPER}" height="${PAPER}" tabindex="0" role="application"
          aria-label="Field to draw a digit in" aria-describedby="draw-keys"></canvas>
          <svg viewBox="0 0 ${PAPER} ${PAPER}" aria-hidden="true"><rect/><circle r="${PEN / 2}"/></svg></div>
        <p role="status" class="verdict"></p>
        <div class="buttons"><button type="button">Clear</button></div>
        <p id="draw-keys">Draw with the mouse or a finger. By keyboard: the arrow keys move the pen, the space bar puts
          it down or lifts it, Delete clears.</p>
      </div>
      <div>
        <table class="answers"><caption>What each network says. Choose one to look inside.</caption><thead><tr>
          <th scope="col">Network</th><th scope="col">Says</th><th scope="col">Probability</th>
          <th scope="col">Or else</th></tr></thead><tbody></tbody></table>
        <p class="note"><span class="weights"></span><span class="missing"></span></p>
      </div>
    </div>
    <div class="inside" role="group" aria-label="Inside the chosen network" hidden>
      <p class="chosen"></p>
      <div class="stepper" role="group" aria-label="Step through the network" aria-describedby="step-keys">
        <button type="button" class="back">◂ Back</button><button type="button" class="next">Next ▸</button>
        <label><input type="checkbox"> All layers at once</label>
        <b class="step"></b>
        <p id="step-keys">On these buttons the left and right arrow keys step, too; Home and End go to the ends.</p>
      </div>
      <p class="hint">${HINT}</p>
      <div class="seen">
        <div class="paper"><canvas width="${IMAGE}" height="${IMAGE}" role="img"
          aria-label="The image that this network sees"></canvas>
          <svg viewBox="0 0 ${IMAGE} ${IMAGE}" aria-hidden="true"><rect/></svg></div>
        <p class="unit"></p>
      </div>
      <div class="layers"><table class="digits"><caption>Softmax: from ten logits to ten probabilities. Every logit is
        made the exponent of e ≈ 2.718, and each result is divided by the sum of all ten. Where one logit is larger than
        another by 1, its probability is 2.718 times as large.</caption><thead><tr><th scope="col">Digit</th>
        <th scope="col">Logit</th><th scope="col">Probability</th></tr></thead><tbody></tbody></table></div>
    </div>
    <p role="status" class="spoken"></p>`;

  const mount = document.querySelector("#digit-pad");
  mount.innerHTML = TEMPLATE;
  const find = selector => mount.querySelector(selector);
  const canvas = find(".drawing"), context = canvas.getContext("2d", {willReadFrequently: true});
  const pen = {x: PAPER / 2, y: PAPER / 2, down: false}, held = new Set(), rows = new Map();
  const softmax = find(".digits"), together = find(".stepper input");
  let image = null, chosen = networks.findLast(({name}) => name.startsWith("iteration_")) ?? networks.at(-1);
  let views = [], step = 1, pointed, frameAsked, pause, speech;
  let untouched = false;  // whether the drawing is still the one that the page opened with

  const percent = share => `${(100 * share).toFixed(1)} %`;
  const megabytes = some => `${(some.reduce((sum, {bytes}) => sum + bytes, 0) / 1e6).toFixed(1)} MB`;
  const signed = value => value.toFixed(2).replace("-", "−");

  function make(tag, className = "", ...content) {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...content);
    return element;
  }

  function bar(share) {
    const inner = make("span", "bar");
    inner.style.width = `${100 * share}%`;
    return make("td", "share", percent(share), inner);
  }

  // A reader who listens hears where things came to rest, not every place on the way.
  function speak(text) {
    clearTimeout(speech);
    speech = setTimeout(() => { find(".spoken").textContent = text; }, 300);
  }

  // -- Drawing

  function ink() {
    const {data} = context.getImageData(0, 0, PAPER, PAPER);
    return Uint8Array.from({length: PAPER * PAPER}, (_, n) => data[4 * n + 3]);
  }

  function movePen(x, y) {
    pen.x = Math.max(0, Math.min(x, PAPER));
    pen.y = Math.max(0, Math.min(y, PAPER));
    const circle = find("circle");
    circle.setAttribute("cx", pen.x);
    circle.setAttribute("cy", pen.y);
    circle.classList.toggle("down", pen.down);
  }

  function drawTo(x, y) {
    context.fillStyle = context.strokeStyle = "white";
    context.lineWidth = PEN;
    context.beginPath();
    context.moveTo(pen.x, pen.y);
    movePen(x, y);
    context.lineTo(pen.x, pen.y);
    context.stroke();
    context.beginPath();
    context.arc(pen.x, pen.y, PEN / 2, 0, 2 * Math.PI);
    context.fill();
    changed();
  }

  // What a reader does first takes the place of the drawing that the page opened with.
  function begin() {
    if (untouched) clear();
  }

  function drawExample(strokes, first = false) {
    clear();
    untouched = first;
    for (const [first, ...others] of strokes) {
      movePen(...first);
      for (const point of [first, ...others]) drawTo(...point);
    }
  }

  function clear() {
    untouched = false;
    context.clearRect(0, 0, PAPER, PAPER);
    if (image) changed();
  }

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in ARROWS) {
      held.add(event.key);  // two at a time go diagonally
      const [right, down] = [0, 1].map(axis => [...held].reduce((sum, key) => sum + ARROWS[key][axis], 0));
      (pen.down ? drawTo : movePen)(pen.x + STEP * right, pen.y + STEP * down);
      speak(`${pen.x} from the left, ${pen.y} from the top, of ${PAPER}; pen ${pen.down ? "down" : "up"}`);
    } else if (event.key === " ") {
      if (!event.repeat) {
        begin();
        pen.down = !pen.down;
        (pen.down ? drawTo : movePen)(pen.x, pen.y);
        speak(`Pen ${pen.down ? "down" : "up"}`);
      }
    } else if (event.key === "Delete" || event.key === "Backspace") clear();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function onPointer(event) {
    const box = canvas.getBoundingClientRect();
    const place = each => [each.clientX - box.left, each.clientY - box.top].map(at => at * PAPER / box.width);
    if (event.type === "pointerdown") {
      if (event.button) return;
      begin();
      canvas.setPointerCapture(event.pointerId);
      movePen(...place(event));
      drawTo(...place(event));
    } else if (canvas.hasPointerCapture(event.pointerId)) {
      const all = event.getCoalescedEvents?.() ?? [];
      for (const each of all.length ? all : [event]) drawTo(...place(each));
    }
  }

  // -- Answering

  function changed() {
    load(untouched ? networks.filter(({bytes}) => bytes < HEAVY) : networks).then(askForFrame, ({message}) => {
      find(".verdict").textContent = message;
    });
  }

  function askForFrame() {
    frameAsked ??= requestAnimationFrame(answer);
  }

  function answer() {
    frameAsked = undefined;
    image = prepare(ink());
    const says = networks.filter(loaded).map(network =>
      tell(network, image && probabilities(run(network, image.pixels).at(-1))));
    const waiting = networks.filter(network => !loaded(network));
    find(".weights").textContent = waiting.length ? `The weights of ${waiting.map(({label}) => label).join(", ")}, ` +
      `${megabytes(waiting)}, are loaded with your first stroke. ` : "";
    clearTimeout(pause);
    pause = setTimeout(() => {
      find(".verdict").textContent = image && chosen ? verdict(says) : NOTHING;
      showInside();
    }, 200);
  }

  // One row of the table; returns the digit.
  function tell(network, all) {
    const row = rows.get(network), digits = all ? [...all.keys()].sort((a, b) => all[b] - all[a]) : [];
    const [first, second] = digits;
    row.replaceChildren(row.firstChild, ...(all
      ? [make("td", "digit", first), bar(all[first]), make("td", "", `${second}: ${percent(all[second])}`)]
      : [make("td", "digit", "–"), make("td", "", "–"), make("td", "", "–")]));
    return first;
  }

  function verdict(says) {
    const count = digit => says.filter(said => said === digit).length;
    const digits = [...new Set(says)].sort((a, b) => count(b) - count(a));
    if (digits.length === 1) return `All ${says.length} networks say ${digits[0]}.`;
    const parts = digits.map(digit => `${count(digit)} of ${says.length} say ${digit}`);
    return `The networks disagree: ${parts.join(", ")}.`;
  }

  // -- Inside a network

  function choose(network) {
    chosen = network;
    const [count, size] = [network.parameters, Math.ceil(network.bytes / 1000)].map(n => n.toLocaleString("en"));
    find(".chosen").textContent = `Network ${network.label}, run with seed ${network.seed}: ${count} parameters, ` +
      `${network.accuracy.toFixed(2)} % of the test images read correctly, ${size} kB of weights.` +
      (network.deskewed ? ` ${UPRIGHT}` : "");
    views = [{title: "the image", element: make("p", "", IMAGE_IS)}, ...network.layers.map(view),
      {title: "softmax", element: softmax}];
    find(".layers").replaceChildren(...views.map(each => each.element));
    goTo(step);
    if (image) load([network]).then(askForFrame, ({message}) => { find(".verdict").textContent = message; });
  }

  function goTo(place) {
    step = Math.max(0, Math.min(place, views.length - 1));
    views.forEach(({element}, n) => { element.hidden = n !== step && !together.checked; });
    find(".step").textContent = together.checked ? "" : `Step ${step} of ${views.length - 1}`;
    for (const button of mount.querySelectorAll(".stepper button")) button.disabled = together.checked;
    unframe();
    showInside();
  }

  function stepTo(place) {
    goTo(place);
    speak(`Step ${step} of ${views.length - 1}: ${views[step].title}`);
  }

  function onStepKey(event) {
    const places = {ArrowLeft: step - 1, ArrowRight: step + 1, Home: 0, End: views.length - 1};
    if (!(event.key in places) || together.checked) return;
    event.preventDefault();
    event.stopPropagation();
    stepTo(places[event.key]);
  }

  // A layer's place on the page. Where a layer has one number a channel, all numbers are one map.
  function view(layer, index, layers) {
    const number = index + 1, [channels, side = 1] = layer.shape, title = `Layer ${number}: ${layer.name}`;
    const does = DOES[layer.kind](layer, index ? layers[index - 1].shape : [1, IMAGE, IMAGE]);
    if (layer.kind === "Same") return {title, element: make("p", "", `${title}. ${does}`)};
    const sheet = side === 1, height = sheet ? Math.ceil(channels / WIDEST) : side;
    const width = sheet ? Math.min(channels, WIDEST) : side;
    const canvases = Array.from({length: sheet ? 1 : channels}, () => Object.assign(make("canvas"), {width, height}));
    const maps = make("div", "maps", ...canvases.map(each => make("span", "map", each)));
    const what = sheet ? `${channels} numbers` : `${channels} maps of ${side} × ${side} units`;
    const caption = make("figcaption", "", `${title}. ${does} `, make("br"), `${what}; a unit sees ` +
      `${layer.field} × ${layer.field} pixels. `);
    const scale = caption.appendChild(make("span"));
    const element = make("figure", "", caption, maps);
    const self = {title, layer, number, sheet, width, height, canvases, maps, scale, element};
    self.at = [0, Math.floor(height / 2), Math.floor(width / 2)];
    maps.tabIndex = 0;
    maps.setAttribute("role", "application");
    maps.setAttribute("aria-label", `${title}, ${what}`);
    maps.addEventListener("focus", () => { if (maps.matches(":focus-visible")) point(self, ...self.at); });
    maps.addEventListener("keydown", event => onMapKey(self, event));
    for (const type of ["pointermove", "pointerdown"]) {
      maps.addEventListener(type, ({target, clientX, clientY}) => {
        const map = canvases.indexOf(target), box = target.getBoundingClientRect();
        if (map < 0) return;
        const [row, column] = [(clientY - box.top) / box.height * height, (clientX - box.left) / box.width * width];
        point(self, map, Math.floor(row), Math.floor(column));
      });
    }
    return self;
  }

  function onMapKey(self, event) {
    const [map, row, column] = self.at, [right, down] = ARROWS[event.key] ?? [0, 0];
    const turn = {PageUp: -1, PageDown: 1}[event.key] ?? 0;
    if (!right && !down && !turn) return;
    event.preventDefault();
    event.stopPropagation();
    point(self, map + turn, row + down, column + right);
  }

  function paint(target, values, low, high) {
    const drawn = new ImageData(target.width, target.height), scale = 255 / (high - low || 1);
    values.forEach((value, n) => drawn.data.set([...Array(3).fill((value - low) * scale), 255], 4 * n));
    target.getContext("2d").putImageData(drawn, 0, 0);
  }

  function showInside() {
    const ready = image && chosen && loaded(chosen);
    find(".inside").hidden = !ready;
    if (!ready) return unframe();
    paint(find(".seen canvas"), seen(chosen, image.pixels).pixels, 0, 1);
    const signals = run(chosen, image.pixels), logits = signals.at(-1);
    find(".digits tbody").replaceChildren(...probabilities(logits).map((share, digit) => {
      const head = make("th", "", digit);
      head.scope = "row";
      return make("tr", "", head, make("td", "", signed(logits[digit])), bar(share));
    }));
    for (const self of views.filter(({maps}) => maps)) {
      const values = self.values = signals[self.number], size = self.width * self.height;
      const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
      self.canvases.forEach((each, map) => paint(each, values.subarray(map * size, (map + 1) * size), low, high));
      self.scale.textContent = `Black is ${signed(low)}, white ${signed(high)}.`;
    }
    const shown = pointed ?? (views[step].maps && !together.checked ? views[step] : undefined);
    if (shown) point(shown, ...shown.at);
  }

  // Show which unit is meant, its value, and what it sees: in the image, and in the drawing that the image came from.
  function point(self, ...at) {
    const {layer, sheet, width, height, canvases, values} = self, limits = [canvases.length, height, width];
    const [map, row, column] = self.at = at.map((n, axis) => Math.max(0, Math.min(n, limits[axis] - 1)));
    const value = values[(map * height + row) * width + column];
    if (value === undefined) return;  // the last row of a sheet may not be full
    mount.querySelector(".cell")?.remove();
    const cell = make("i", "cell");
    Object.assign(cell.style, {left: `${100 * column / width}%`, top: `${100 * row / height}%`,
      width: `${100 / width}%`, height: `${100 / height}%`});
    canvases[map].parentElement.append(cell);
    const [top, bottom] = field(layer, sheet ? 0 : row), [left, right] = field(layer, sheet ? 0 : column);
    const {scale, x, y} = image, {slope, middle} = seen(chosen, image.pixels);
    frame(find(".seen rect"), left, top, right, bottom);
    frame(find(".columns rect"), x + left * scale, y + top * scale, x + right * scale, y + bottom * scale);
    // Where the image was set upright, what the unit sees of the drawing leans.
    find(".columns rect").setAttribute("transform", `matrix(1 0 ${slope} 1 ${-slope * (y + (middle + 0.5) * scale)} 0)`);
    const name = sheet ? `number ${row * width + column + 1}` : `map ${map + 1}, row ${row + 1}, column ${column + 1}`;
    const whole = bottom - top === IMAGE && right - left === IMAGE;
    const part = whole ? "the whole" : `rows ${top + 1} to ${bottom} and columns ${left + 1} to ${right} of the`;
    const text = `Layer ${self.number}, ${name}: ${signed(value)}. It sees ${part} image.`;
    pointed = self;
    find(".unit").textContent = text;
    if (document.activeElement === self.maps) speak(text);
  }

  function unframe() {
    pointed = undefined;
    mount.querySelector(".cell")?.remove();
    mount.querySelectorAll("rect").forEach(rect => rect.classList.remove("shown"));
    find(".unit").textContent = "This is the image that the network sees.";
  }

  function frame(rect, left, top, right, bottom) {
    const places = {x: left, y: top, width: right - left, height: bottom - top};
    Object.entries(places).forEach(([key, value]) => rect.setAttribute(key, value));
    rect.classList.add("shown");
  }

  // -- The beginning

  for (const network of networks) {
    const radio = Object.assign(make("input"), {type: "radio", name: "network", checked: network === chosen});
    radio.addEventListener("change", () => choose(network));
    const head = make("th", "", make("label", "", radio, ` ${network.label}`));
    head.scope = "row";
    rows.set(network, find(".answers tbody").appendChild(make("tr", "", head)));
    tell(network, null);
  }
  find(".verdict").textContent = NOTHING;
  const reasons = {"Without a current record": missing, "With layers that this page cannot compute": tooMuch};
  for (const [reason, names] of Object.entries(reasons)) {
    if (names.length) find(".missing").append(`${reason}, and so left out: ${names.join(", ")}. `);
  }
  find(".buttons button").addEventListener("click", clear);
  for (const [name, strokes] of Object.entries(EXAMPLES)) {
    const button = Object.assign(make("button", "", `Example: ${name}`), {type: "button"});
    button.addEventListener("click", () => drawExample(strokes));
    find(".buttons").append(button);
  }
  canvas.addEventListener("keydown", onKey);
  canvas.addEventListener("keyup", event => held.delete(event.key));
  canvas.addEventListener("blur", () => held.clear());
  for (const type of ["pointerdown", "pointermove"]) canvas.addEventListener(type, onPointer);
  find(".back").addEventListener("click", () => stepTo(step - 1));
  find(".next").addEventListener("click", () => stepTo(step + 1));
  together.addEventListener("change", () => goTo(step));
  find(".stepper").addEventListener("keydown", onStepKey);
  movePen(pen.x, pen.y);
  if (chosen) {
    choose(chosen);
    drawExample(Object.values(EXAMPLES)[0], true);
    movePen(PAPER / 2, PAPER / 2);
  }
  window.drawADigit = {networks, load, run, seen, probabilities, field, prepare, ink};
})();
