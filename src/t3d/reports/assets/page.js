// Draws the report's charts.
(() => {
  const { dark, calm, colour, series, faded, line, draw } = shared;
  const data = JSON.parse(document.getElementById("data").textContent);
  const xy = (points) => points.map(([x, y]) => ({ x, y }));
  const along = (xs, ys) => xs.map((x, i) => ({ x, y: ys[i] }));
  const hidden = new Set();

  // A band is two unseen lines with a fill between them; key is what one click of the legend hides.
  function band(steps, curve, stroke, key) {
    if (!curve.low) return [];
    const edge = { borderWidth: 0, pointRadius: 0, pointHoverRadius: 0, pointHitRadius: 0, silent: true, key };
    return [
      line("low", along(steps, curve.low), "transparent", edge),
      line("high", along(steps, curve.high), "transparent", { ...edge, backgroundColor: faded(stroke, 0.16), fill: "-1" }),
    ];
  }

  const ends = (curve) => curve.low?.map((low, i) => [low, curve.high[i]]);

  function curves(study) {
    const { groups, references } = study.learning;
    const single = groups.length === 1;
    const datasets = [];
    groups.forEach((group, index) => {
      const stroke = series(index), name = single ? "" : group.label + ": ";
      const of = (what) => `${study.id}-${index}-${what}`;
      const before = datasets.length;
      if (group.seeds > 1) {
        datasets.push(...band(group.frames, group.mean, stroke, of("mean")));
        datasets.push(line(name + "mean", along(group.frames, group.mean.value), stroke, {
          borderWidth: 2.5, key: of("mean"), legend: single ? `mean of ${group.seeds} seeds, 95 % t interval` : name + "mean, 95 % interval",
          interval: ends(group.mean),
        }));
      }
      if (group.iqm) {
        const tone = single ? colour("series-1") : stroke;
        datasets.push(...band(group.frames, group.iqm, tone, of("iqm")));
        datasets.push(line(name + "interquartile mean", along(group.frames, group.iqm.value), tone, {
          borderWidth: 2.5, borderDash: single ? [] : [8, 3], key: of("iqm"), off: true, interval: ends(group.iqm),
          legend: name + "interquartile mean" + (single ? ", 95 % bootstrap interval" : ""),
        }));
      }
      group.runs.forEach((run, i) => {
        const alone = group.seeds === 1;
        datasets.push(line(`${name}seed ${run.seed}`, xy(run.points), alone ? stroke : faded(stroke, 0.55), {
          borderWidth: alone ? 2.5 : 1, key: of("seeds"), silent: !single && !alone, ...(i ? {} : { legend: name + (alone ? "seed " + run.seed : "each seed"), mark: alone ? "" : "thin" }),
        }));
      });
      datasets.slice(before).forEach((dataset) => { dataset.group = index; });
    });
    const dashes = [[6, 4], [2, 3], [10, 3, 2, 3]];
    references.forEach((reference, i) => {
      datasets.push(line(reference.label, xy(reference.points), colour("muted"), {
        borderWidth: 1.5, borderDash: dashes[i % 3], key: `${study.id}-reference-${i}`, legend: reference.label,
        detail: reference.detail, off: !reference.shown, mark: i % 3 === 1 ? "dotted" : "dashed",
      }));
    });
    return datasets;
  }

  function entry(dataset, redraw) {
    const [button, mark, text] = ["button", "i", "span"].map((tag) => document.createElement(tag));
    button.type = "button";
    mark.className = dataset.mark ?? "";
    mark.style.color = dataset.borderColor;
    text.textContent = dataset.legend;
    if (dataset.detail) text.append(Object.assign(document.createElement("small"), { textContent: dataset.detail }));
    button.append(mark, text);
    const show = () => button.setAttribute("aria-pressed", String(!hidden.has(dataset.key)));
    show();
    button.addEventListener("click", () => {
      if (!hidden.delete(dataset.key)) hidden.add(dataset.key);
      show();
      redraw();
    });
    return button;
  }

  function legend(study, datasets, redraw) {
    const entries = (wanted) => datasets.filter((one) => one.legend && wanted(one)).map((one) => entry(one, redraw));
    const rows = study.learning.groups.map((_, index) => {
      const row = document.createElement("div");
      row.append(...entries((one) => one.group === index));
      return row;
    });
    document.getElementById("legend-" + study.id).replaceChildren(...rows);
    document.getElementById("published-" + study.id).replaceChildren(...entries((one) => one.detail));
  }

  function learning(study) {
    const datasets = curves(study);
    const chart = draw("learning-" + study.id, datasets, { max: study.learning.x_max, unit: study.learning.x_unit });
    const redraw = () => {
      datasets.forEach((dataset) => { dataset.hidden = hidden.has(dataset.key); });
      chart.update();
    };
    legend(study, datasets, redraw);
    redraw();
  }

  function small(study, kind) {
    study[kind].forEach((entry, i) => {
      const many = study.learning.groups.length > 1;
      const datasets = entry.lines.map((run) => {
        const name = (many ? study.learning.groups[run.group].label + ", " : "") + "seed " + run.seed;
        return line(name, xy(run.points), faded(series(run.group), entry.lines.length > 1 ? 0.6 : 1), { borderWidth: 1.25 });
      });
      draw(`${kind}-${study.id}-${i}`, datasets, { small: true, max: study.learning.x_max, unit: study.learning.x_unit });
    });
  }

  // What is healthy, as a tint behind the lines; an end that is null is the chart's own.
  const healthy = ([low, high]) => ({
    id: "healthy",
    beforeDatasetsDraw({ ctx, chartArea, scales }) {
      if (low === null && high === null) return;
      const inside = (value) => Math.min(chartArea.bottom, Math.max(chartArea.top, scales.y.getPixelForValue(value)));
      const top = high === null ? chartArea.top : inside(high), bottom = low === null ? chartArea.bottom : inside(low);
      ctx.save();
      ctx.fillStyle = faded(colour("accent"), 0.1);
      ctx.fillRect(chartArea.left, top, chartArea.width, bottom - top);
      ctx.restore();
    },
  });

  function questions(study) {
    study.questions.forEach((chart, i) => {
      const many = study.learning.groups.length > 1;
      const several = new Set(chart.lines.map((one) => one.name)).size > 1;
      const datasets = chart.lines.map((run) => {
        const name = (many ? study.learning.groups[run.group].label + ", " : "") + "seed " + run.seed;
        return line(several ? `${name} ${run.name}` : name, xy(run.points), faded(series(run.group), chart.lines.length > 2 ? 0.6 : 1), {
          borderWidth: 1.5, borderDash: run.dashed ? [4, 3] : [],
        });
      });
      const [low, high] = chart.healthy;
      const y = chart.is_share ? { min: 0, max: 1 } : { suggestedMin: low ?? undefined, suggestedMax: high === null ? undefined : high * 1.1 };
      draw(`questions-${study.id}-${i}`, datasets, { small: true, max: study.learning.x_max, unit: study.learning.x_unit, plugins: [healthy(chart.healthy)], y });
    });
  }

  function films() {
    for (const film of document.querySelectorAll(".film")) {
      const tabs = [...film.querySelectorAll(".tabs button")], clips = [...film.querySelectorAll(".clip")];
      const choose = (chosen) => clips.forEach((clip, i) => {
        clip.hidden = i !== chosen;
        tabs[i].setAttribute("aria-pressed", String(i === chosen));
        const video = clip.querySelector("video");
        // A browser may refuse to play unasked; the controls are there.
        if (i !== chosen || calm) video.pause(); else video.play().catch(() => {});
      });
      tabs.forEach((tab, i) => tab.addEventListener("click", () => choose(i)));
      choose(0);
    }
  }

  // The last policy's video stands in the page once; beside the others it is shown again.
  function stages() {
    for (const video of document.querySelectorAll(".stages video")) {
      if (video.classList.contains("last")) video.src = video.closest(".study").querySelector(".of-last video").src;
      if (!calm) video.play().catch(() => {});
    }
  }

  // A page whose run goes on reloads itself; one that nobody writes any more does not for ever.
  function follow({ reload_s: seconds, until }) {
    setTimeout(() => {
      if (Date.now() / 1000 < until) return location.reload();
      const said = document.getElementById("live");
      said.textContent = said.dataset.ended;
    }, 1000 * seconds);
  }

  function copying() {
    for (const button of document.querySelectorAll(".copy")) {
      button.addEventListener("click", async () => {
        const commands = button.parentElement.querySelector("pre");
        getSelection().selectAllChildren(commands);
        // Some browsers lend no clipboard to a page opened from a disk; there the selection must do.
        await navigator.clipboard?.writeText(commands.textContent);
        button.textContent = navigator.clipboard ? "copied" : "selected";
      });
    }
  }

  function all() {
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    for (const study of data.studies) {
      learning(study);
      questions(study);
      small(study, "training");
      small(study, "health");
    }
    for (const dot of document.querySelectorAll(".dot")) dot.style.background = series(Number(dot.dataset.colour));
  }

  data.studies.forEach((study) => curves(study).forEach((dataset) => { if (dataset.off) hidden.add(dataset.key); }));
  all();
  films();
  stages();
  copying();
  if (data.live) follow(data.live);
  dark.addEventListener("change", all);
})();
