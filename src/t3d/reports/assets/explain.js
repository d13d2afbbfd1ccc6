// Draws the charts of `t3d explain`, and lets three transitions be followed through all of them.
(() => {
  const { dark, calm, colour, series, faded, exact, minus, line, roundTicks, draw } = shared;
  const { update, followed, episode, pace, plane } = JSON.parse(document.getElementById("data").textContent);
  const BINS = 32, NEAR = 16, NAMED = { next_q1: "Qt1", next_q2: "Qt2", next_q: "smaller", target_q: "target", q1: "Q1", q2: "Q2" };
  // A changed algorithm may not say some of these.
  const said = Object.keys(NAMED).filter((name) => update?.[name]), STAGES = said.map((name) => NAMED[name]);
  const number = (value) => minus(exact.format(Number(value.toPrecision(4))));
  const ours = (k) => colour(["one", "two", "three"][k]);
  const byId = (id) => document.getElementById(id);
  let kept = null, pointed = null, other = null, dimension = 0, step = 0;
  const focus = () => pointed ?? kept;
  const difference = (a, b) => a.map((value, i) => value - b[i]);

  // ---- A path, in words

  function words(i) {
    const u = update, smoothing = u.target_q[i] - u.target_q_unsmoothed[i];
    const twins = u.next_q1 && u.next_q2 ? `Qt1 ${number(u.next_q1[i])}, Qt2 ${number(u.next_q2[i])}` : "";
    const taken = u.next_q ? `: ${u.next_q1[i] < u.next_q2[i] ? "Q1" : "Q2"} is taken` : "";
    const sum = u.next_q ? `${number(u.reward[i])} + ${number(u.gamma)} \u00b7 ${number(u.next_q[i])} = ` : "";
    const end = u.next_q && u.terminated[i] ? "it truly ended, so the target is the reward alone" : `target ${sum}${number(u.target_q[i])}`;
    const second = u.q2 ? `, Q2 ${number(u.q2[i])}` : "";
    return `${twins}${taken}${twins && " \u2192 "}${end} (smoothing: ${smoothing < 0 ? "" : "+"}${number(smoothing)}) \u2192 Q1 says ${number(u.q1[i])}${second}`;
  }

  function tell() {
    const k = focus();
    if (k === null) delete document.body.dataset.focus; else document.body.dataset.focus = k;
    const said = other !== null ? `Transition ${other} of the batch: ${words(other)}` : k !== null ? words(followed[k]) : "Point at one of the three, here or in any chart.";
    byId("told").textContent = said;
    for (const button of document.querySelectorAll(".follow button")) button.setAttribute("aria-pressed", String(Number(button.dataset.follow) === kept));
    for (const chart of Object.values(Chart.instances)) chart.draw();
    maps();
  }

  function point(k, index = null) {
    if (pointed === k && other === index) return;
    [pointed, other] = [k, index];
    tell();
  }

  // ---- Histograms

  function bins(lists) {
    const all = lists.flat().filter((value) => value !== null);
    let low = Math.min(...all), high = Math.max(...all);
    if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
    const width = (high - low) / BINS;
    const counts = lists.map((values) => {
      const count = new Array(BINS).fill(0);
      for (const value of values) if (value !== null) count[Math.min(BINS - 1, Math.floor((value - low) / width))] += 1;
      return count;
    });
    return { low, high, width, counts };
  }

  // The three of the batch in a histogram: a line each, its number above; hollow where a second list is meant.
  const marks = (lists) => ({
    id: "marks",
    afterDatasetsDraw({ ctx, chartArea, scales }) {
      ctx.save();
      if (scales.x.min < 0 && scales.x.max > 0) {
        ctx.strokeStyle = faded(colour("muted"), 0.6);
        const zero = scales.x.getPixelForValue(0);
        ctx.beginPath();
        ctx.moveTo(zero, chartArea.top);
        ctx.lineTo(zero, chartArea.bottom);
        ctx.stroke();
      }
      ctx.font = `600 11px ${Chart.defaults.font.family}`;
      [ctx.textAlign, ctx.textBaseline] = ["center", "middle"];
      const order = [0, 1, 2].filter((k) => k < followed.length).sort((a, b) => (a === focus()) - (b === focus()));
      for (const k of order) lists.forEach((values, which) => {
        const x = scales.x.getPixelForValue(values[followed[k]]), y = chartArea.top + 9 + 20 * k;
        ctx.globalAlpha = focus() === null || focus() === k ? 1 : 0.22;
        ctx.strokeStyle = ctx.fillStyle = ours(k);
        ctx.lineWidth = focus() === k ? 2.5 : 1.5;
        ctx.setLineDash(which ? [3, 3] : []);
        ctx.beginPath();
        ctx.moveTo(x, y);
        ctx.lineTo(x, chartArea.bottom);
        ctx.stroke();
        ctx.setLineDash([]);
        ctx.beginPath();
        ctx.arc(x, y, 9, 0, 7);
        if (which) ctx.fillStyle = colour("paper");
        ctx.fill();
        if (which) ctx.stroke();
        ctx.fillStyle = which ? ours(k) : colour("paper");
        ctx.fillText(String(k + 1), x, y + 0.5);
      });
      ctx.restore();
    },
  });

  function histogram(id, lists, labels) {
    const { low, high, width, counts } = bins(lists);
    const datasets = counts.map((count, which) => {
      const points = count.map((y, i) => ({ x: low + i * width, y }));
      const tone = colour("muted");
      return line(labels[which], [...points, { x: high, y: count[BINS - 1] }], tone, {
        stepped: "after", borderWidth: which ? 1.25 : 0, borderDash: which ? [3, 3] : [], pointHoverRadius: 0,
        backgroundColor: faded(tone, 0.32), fill: which ? false : "origin",
      });
    });
    const chart = draw(id, datasets, {
      small: true, min: low - width, max: high + width, plugins: [marks(lists)],
      x: { afterBuildTicks: (axis) => roundTicks(axis, 5) },
      y: { min: 0, grace: "12%", ticks: { ...ticks(), precision: 0, maxTicksLimit: 4 } },
      title: ([item]) => item ? `${number(item.parsed.x)} to ${number(item.parsed.x + width)}` : "",
      label: ({ dataset, parsed }) => `${dataset.label}: ${parsed.y} of ${update.reward.length}`,
    });
    listen(chart, (x) => {
      const places = lists.flatMap((values) => followed.map((i, k) => [Math.abs(chart.scales.x.getPixelForValue(values[i]) - x), k]));
      const [distance, k] = places.reduce((a, b) => (b[0] < a[0] ? b : a));
      point(distance < NEAR ? k : null);
    });
  }

  function around(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)], edge = 0.04 * (high - low || 1);
    return [low - edge, high + edge];
  }

  const ticks = () => ({ color: colour("muted"), padding: 8, font: { size: 11 } });

  function listen(chart, moved) {
    const { canvas } = chart;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      moved(event.clientX - box.left, event.clientY - box.top);
    };
    canvas.onpointermove = canvas.onpointerdown = at;
    canvas.onpointerleave = () => point(null);
    canvas.onclick = () => { if (pointed !== null) keep(pointed); };
  }

  function histograms() {
    const u = update, d = dimension;
    const shown = {
      4: [[u.reward], ["reward"]], 5: [[u.next_action?.[d]], ["next_action"]],
      6: [[difference(u.target_q, u.target_q_unsmoothed)], ["change"]], 7: [[u.next_q1, u.next_q2], ["next_q1", "next_q2"]],
      8: [[u.next_q && difference(u.next_q2, u.next_q1)], ["Qt2 \u2212 Qt1"]], 9: [[u.target_q], ["target_q"]],
      10: [[u.q1, u.q2], ["q1", "q2"]],
      11: [[difference(u.q1, u.target_q), u.q2 && difference(u.q2, u.target_q)], ["q1 \u2212 target_q", "q2 \u2212 target_q"]],
      12: [[difference(u.q1_after, u.q1)], ["moved"]], 13: [[u.played_q1_moved], ["moved"]],
      14: [[u.actor_lag[d]], ["behind"]], 15: [[u.critic_lag], ["behind"]],
    };
    for (const [number, [lists, labels]] of Object.entries(shown)) {
      if (byId("chart-" + number)) histogram("chart-" + number, lists.filter((values) => values), labels);
    }
    for (const name of document.querySelectorAll(".dimension")) name.textContent = d + 1;
  }

  // ---- The path of each transition

  function path() {
    const stages = said.map((name) => update[name]);
    const rest = {
      id: "rest",
      beforeDatasetsDraw({ ctx, scales }) {
        ctx.save();
        const trace = (i) => {
          ctx.beginPath();
          stages.forEach((values, x) => ctx[x ? "lineTo" : "moveTo"](scales.x.getPixelForValue(x), scales.y.getPixelForValue(values[i])));
          ctx.stroke();
        };
        ctx.lineWidth = 1;
        ctx.strokeStyle = faded(colour("muted"), Math.min(0.5, Math.max(0.1, 16 / update.reward.length)));
        for (let i = 0; i < update.reward.length; i++) trace(i);
        if (other !== null) {
          [ctx.strokeStyle, ctx.lineWidth] = [colour("ink"), 2];
          trace(other);
        }
        ctx.restore();
      },
      beforeDatasetDraw({ ctx }, { index }) { ctx.globalAlpha = other === null && (focus() === null || focus() === index) ? 1 : 0.25; },
      afterDatasetDraw({ ctx }) { ctx.globalAlpha = 1; },
    };
    const datasets = followed.map((i, k) => line(`transition ${k + 1}`, stages.map((values, x) => ({ x, y: values[i] })), ours(k), {
      borderWidth: 2.5, pointRadius: 3.5,
    }));
    const [low, high] = around(stages.flat());
    const chart = draw("path", datasets, {
      min: -0.12, max: STAGES.length - 0.88, plugins: [rest],
      x: { afterBuildTicks: (axis) => { axis.ticks = STAGES.map((_, value) => ({ value })); }, ticks: { ...ticks(), font: { size: 12 }, callback: (x) => STAGES[x] ?? "" }, flat: false, grid: { color: colour("line"), drawTicks: false } },
      y: { min: low, max: high },
      title: ([item]) => STAGES[item?.parsed.x] ?? "",
    });
    listen(chart, (x, y) => {
      const stage = Math.max(0, Math.min(STAGES.length - 1, Math.round(chart.scales.x.getValueForPixel(x))));
      const away = stages[stage].map((value) => Math.abs(chart.scales.y.getPixelForValue(value) - y));
      const nearest = away.indexOf(Math.min(...away));
      const close = followed.findIndex((i) => away[i] < NEAR);
      if (close >= 0) point(close); else point(null, nearest);
    });
  }

  // ---- The episode

  let filmed = Infinity;
  const cursor = {
    id: "cursor",
    afterDatasetsDraw({ ctx, chartArea, scales }) {
      const x = scales.x.getPixelForValue(step);
      ctx.save();
      if (filmed < episode.q1.length - 1) {
        ctx.fillStyle = faded(colour("paper"), 0.55);
        const from = scales.x.getPixelForValue(filmed);
        ctx.fillRect(from, chartArea.top, chartArea.right - from, chartArea.height);
      }
      [ctx.strokeStyle, ctx.lineWidth] = [colour("ink"), 1.5];
      ctx.beginPath();
      ctx.moveTo(x, chartArea.top);
      ctx.lineTo(x, chartArea.bottom);
      ctx.stroke();
      ctx.restore();
    },
  };

  function promises() {
    const along = (values) => values.map((y, x) => ({ x, y }));
    const last = episode.q1.length - 1, faint = (context) => (episode.word[context.p1DataIndex] > 0.5 ? 0.35 : 1);
    const lines = [["obtained", episode.obtained, colour("ink")], ["Q1", episode.q1, series(0)], ["Q2", episode.q2, series(1)]];
    const datasets = lines.map(([label, values, stroke]) => line(label, along(values), stroke, {
      borderWidth: 2, segment: { borderColor: (context) => faded(stroke, faint(context)) },
    }));
    const title = ([item]) => item ? `step ${item.parsed.x}` : "";
    const [low, high] = around([...episode.q1, ...episode.q2, ...episode.obtained]);
    // Equal widths: the cursor stands at the same place in both.
    const y = { afterFit: (axis) => { axis.width = 54; } };
    const x = { afterBuildTicks: (axis) => roundTicks(axis, 6) };
    draw("promises", datasets, { max: last, plugins: [cursor], title, x, y: { ...y, min: low, max: high } });
    const actions = episode.action.length > 2 ? inRows(title, last, x, y) : inLines(title, last, x, y);
    byId("episode-legend").replaceChildren(legend(datasets), legend(actions));
    for (const id of ["promises", "actions"]) Chart.getChart(id).canvas.onclick = (event) => {
      seek(Chart.getChart(id).scales.x.getValueForPixel(event.clientX - event.target.getBoundingClientRect().left));
    };
  }

  function inLines(title, last, x, y) {
    const datasets = episode.action.map((values, i) => line(episode.action.length > 1 ? `action ${i + 1}` : "action", values.map((y, x) => ({ x, y })), series(i + 2), { borderWidth: 1.5 }));
    draw("actions", datasets, { small: true, max: last, plugins: [cursor], title, x, y: { ...y, min: -1, max: 1 } });
    return datasets;
  }

  // Many actions: a row each, coloured from -1 to 1, where lines would hide each other.
  function inRows(title, last, x, y) {
    const many = episode.action.length, tones = plusMinus();
    const rows = {
      id: "rows",
      beforeDatasetsDraw({ ctx, chartArea, scales }) {
        ctx.save();
        const height = (chartArea.bottom - chartArea.top) / many, from = scales.x.getPixelForValue(0);
        const width = (scales.x.getPixelForValue(last) - from) / last;
        episode.action.forEach((values, row) => values.forEach((value, at) => {
          ctx.fillStyle = shade((value + 1) / 2, tones);
          ctx.fillRect(from + (at - 0.5) * width, chartArea.top + row * height + 0.5, width + 0.5, height - 1);
        }));
        ctx.restore();
      },
    };
    const datasets = episode.action.map((values, i) => line(`action ${i + 1}`, values.map((_, x) => ({ x, y: i + 1 })), "transparent", { pointHoverRadius: 0, values }));
    draw("actions", datasets, {
      small: true, max: last, plugins: [rows, cursor], title, x,
      y: { ...y, min: 0.5, max: many + 0.5, reverse: true, grid: { display: false }, afterBuildTicks: (axis) => { axis.ticks = episode.action.map((_, i) => ({ value: i + 1 })); } },
      label: ({ dataset, dataIndex }) => `${dataset.label}: ${number(dataset.values[dataIndex])}`,
    });
    return [];
  }

  function legend(datasets) {
    const row = document.createElement("div");
    row.append(...datasets.map((dataset) => {
      const [entry, mark, text] = ["span", "i", "span"].map((tag) => document.createElement(tag));
      entry.className = "entry";
      mark.style.color = dataset.borderColor;
      text.textContent = dataset.label;
      entry.append(mark, text);
      return entry;
    }));
    return row;
  }

  const film = document.querySelector("video");

  function seek(to) {
    const last = episode.q1.length - 1, at = Math.max(0, Math.min(last, Math.round(to)));
    if (film && pace && at <= filmed) film.currentTime = (at + 0.5) / pace; else film?.pause();
    show(at);
  }

  function show(at) {
    step = Math.max(0, Math.min(episode.q1.length - 1, at));
    const over = Math.min(episode.q1[step], episode.q2[step]) - episode.obtained[step];
    byId("now").textContent = `Step ${step}: Q1 ${number(episode.q1[step])}, Q2 ${number(episode.q2[step])}, obtained ${number(episode.obtained[step])}; the smaller promised ${number(Math.abs(over))} too ${over > 0 ? "much" : "little"}.`;
    for (const id of ["promises", "actions"]) Chart.getChart(id).draw();
    maps();
  }

  function playing() {
    if (!film || !pace) return;
    const follow = () => {
      const at = Math.floor(film.currentTime * pace);
      if (at !== step && !film.paused) show(at);
      if (!film.paused) requestAnimationFrame(follow);
    };
    const measured = () => {
      filmed = Math.round(film.duration * pace) - 1;
      if (filmed >= episode.q1.length - 1) return;
      film.parentElement.querySelector("figcaption").append(` The film shows the first ${filmed} steps; behind them the curves are paler.`);
      show(step);
    };
    if (film.readyState) measured(); else film.addEventListener("loadedmetadata", measured, { once: true });
    film.addEventListener("play", follow);
    film.addEventListener("seeked", () => show(Math.floor(film.currentTime * pace)));
    // A browser may refuse to play unasked; the controls are there.
    if (!calm) film.play().catch(() => {});
  }

  // ---- Maps

  const plusMinus = () => ["series-1", "low", "series-0"].map((name) => rgb(colour(name)));
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const mix = (a, b, share) => a.map((from, i) => Math.round(from + (b[i] - from) * share));
  function shade(share, tones) {
    const place = Math.max(0, Math.min(1, share)) * (tones.length - 1), below = Math.min(tones.length - 2, Math.floor(place));
    return `rgb(${mix(tones[below], tones[below + 1], place - below).join(" ")})`;
  }

  function maps() {
    plane?.maps.forEach((rows, which) => {
      const canvas = byId("map-" + which);
      if (!canvas) return;
      const context = canvas.getContext("2d"), size = rows.length, cell = canvas.width / size;
      const known = rows.flatMap((row, y) => row.filter((_, x) => plane.seen[y][x]));
      const all = which || !known.length ? rows.flat() : known;
      const [low, high] = which ? [-1, 1] : [Math.min(...all), Math.max(...all)];
      const tones = which ? plusMinus() : ["low", "mid", "high"].map((name) => rgb(colour(name)));
      rows.forEach((row, y) => row.forEach((value, x) => {
        context.fillStyle = plane.seen[y][x] ? shade((value - low) / (high - low || 1), tones) : colour("unseen");
        context.fillRect(Math.floor(x * cell), Math.floor((size - 1 - y) * cell), Math.ceil(cell), Math.ceil(cell));
      }));
      const place = ([x, y]) => [x, y].map((value, i) => {
        const share = (value - plane.low[i]) / (plane.high[i] - plane.low[i]);
        return (i ? 1 - share : share) * (canvas.width - cell) + cell / 2;
      });
      const dot = (at, radius, fill) => {
        context.beginPath();
        context.arc(...place(at), radius, 0, 7);
        [context.fillStyle, context.strokeStyle, context.lineWidth] = [fill, colour("paper"), 2.5];
        context.fill();
        context.stroke();
      };
      if (episode && plane.episode.length) {
        context.fillStyle = faded(colour("ink"), 0.4);
        for (const at of plane.episode) { const [x, y] = place(at); context.fillRect(x - 1.5, y - 1.5, 3, 3); }
      }
      if (update) followed.forEach((i, k) => {
        if (focus() !== null && focus() !== k) return;
        dot(plane.batch[i], 13, ours(k));
        context.font = `600 16px ${Chart.defaults.font.family}`;
        [context.textAlign, context.textBaseline, context.fillStyle] = ["center", "middle", colour("paper")];
        context.fillText(String(k + 1), place(plane.batch[i])[0], place(plane.batch[i])[1] + 1);
      });
      if (episode && plane.episode.length) dot(plane.episode[step], 8, colour("ink"));
      const [least, bar, most] = canvas.closest("figure").querySelector(".scale").children;
      [least.textContent, most.textContent] = [number(low), number(high)];
      const drawn = bar.getContext("2d");
      for (let x = 0; x < bar.width; x++) { drawn.fillStyle = shade(x / bar.width, tones); drawn.fillRect(x, 0, 1, bar.height); }
    });
  }

  // ---- Everything

  function keep(k) {
    kept = kept === k ? null : k;
    tell();
  }

  function all() {
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    if (episode) promises();
    if (update) { path(); histograms(); }
    maps();
  }

  all();
  if (episode) {
    show(0);
    playing();
    byId("promises").addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
      if (!by) return;
      event.preventDefault();
      film?.pause();
      seek(step + by);
    });
  }
  if (update) {
    for (const element of document.querySelectorAll("[data-follow]")) {
      const k = Number(element.dataset.follow);
      element.addEventListener("pointerenter", () => point(k));
      element.addEventListener("pointerleave", () => point(null));
      if (element.tagName === "BUTTON") {
        element.addEventListener("focus", () => point(k));
        element.addEventListener("blur", () => point(null));
      }
      element.addEventListener("click", () => keep(k));
    }
    byId("dimension")?.addEventListener("change", (event) => {
      dimension = Number(event.target.value);
      histograms();
    });
    tell();
  }
  dark.addEventListener("change", all);
})();
