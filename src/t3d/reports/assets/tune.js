// Draws the charts of `t3d tune`.
(() => {
  const { dark, colour, series, faded, exact, minus, line, roundTicks, draw } = shared;
  const { trials, best, slices } = JSON.parse(document.getElementById("data").textContent);
  const number = (value) => minus(exact.format(value));
  const points = { showLine: false, pointHitRadius: 8, borderWidth: 1.5 };

  function history() {
    const failed = (trial) => Object.keys(trial.failed).length > 0;
    const played = trials.filter((trial) => trial.value !== null && !failed(trial));
    const broken = trials.filter((trial) => trial.value !== null && failed(trial));
    const stopped = trials.filter((trial) => trial.at);
    let top = -Infinity;
    const lead = [];
    for (const trial of trials) if (trial.value !== null) lead.push({ x: trial.number, y: (top = Math.max(top, trial.value)) });
    if (lead.length) lead.push({ x: trials.length - 1, y: top });
    const at = (list, y) => list.map((trial) => ({ x: trial.number, y: y(trial), words: trial.words, seeds: trial.seeds }));
    const value = (trial) => trial.value;
    draw("history", [
      line("best so far", lead, faded(series(0), 0.6), { stepped: "before", borderWidth: 1.5, pointRadius: 0, silent: true }),
      line("played", at(played, value), series(0), { ...points, pointRadius: played.map((trial) => (trial.number === best ? 7 : 4)) }),
      line("stopped", at(stopped, (trial) => trial.at[1]), series(2), { ...points, pointRadius: 4, backgroundColor: colour("paper") }),
      line("a seed failed", at(broken, value), series(1), { ...points, pointRadius: 5, pointStyle: "crossRot", borderWidth: 2 }),
    ], {
      min: -0.5, max: trials.length - 0.5,
      x: { ticks: { ...ticks(), callback: (x) => (Number.isInteger(x) ? x : "") } },
      title: (items) => (items.length ? "trial " + items[0].parsed.x : ""),
      label: ({ dataset, raw }) => [`${dataset.label}: ${number(raw.y)}, seeds: ${raw.seeds}`, ...(raw.words ?? "").split(", ")],
    });
  }

  const ticks = () => ({ color: colour("muted"), padding: 8, maxRotation: 0, font: { size: 11 }, maxTicksLimit: 6 });

  function slice(entry, index) {
    const names = entry.choices;
    const dots = entry.points.map(([x, y, trial]) => ({ x: names.length ? x + spread(trial) : x, y, trial, shown: x }));
    const [low, high] = entry.range ?? [];
    const edge = entry.log ? (high / low) ** 0.04 : 0.04 * (high - low);
    const x = names.length
      ? { min: -0.5, max: names.length - 0.5, afterBuildTicks: (axis) => (axis.ticks = names.map((_, value) => ({ value }))),
          ticks: { ...ticks(), autoSkip: false, callback: (value) => names[value] ?? "" } }
      : entry.log
        ? { type: "logarithmic", min: low / edge, max: high * edge, afterBuildTicks: (axis) => (axis.ticks = decades(low, high)),
            ticks: { ...ticks(), autoSkip: false, callback: (value) => number(value) } }
        : { min: low - edge, max: high + edge, afterBuildTicks: (axis) => roundTicks(axis, 4), ticks: { ...ticks(), callback: (value) => number(value) } };
    draw("slice-" + index, [
      line(entry.option, dots, series(0), {
        ...points, pointRadius: dots.map((dot) => (dot.trial === best ? 6 : 3)), backgroundColor: faded(series(0), 0.6), borderWidth: 0.5,
      }),
    ], {
      small: true, x,
      title: (items) => (items.length ? "trial " + items[0].raw.trial : ""),
      label: ({ raw }) => `${names.length ? names[raw.shown] : number(raw.shown)}: ${number(raw.y)}`,
    });
  }

  // 1, 3, 10, ... within a range; its ends where that gives fewer than two.
  function decades(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const factor of [1, 3]) if (factor * 10 ** power >= low * 0.999 && factor * 10 ** power <= high * 1.001) found.push(factor * 10 ** power);
    }
    return (found.length > 1 ? found : [low, high]).map((value) => ({ value }));
  }

  // Trials of one choice stand beside each other.
  const spread = (trial) => ((trial * 0.618034) % 1 - 0.5) * 0.4;

  function paint() {
    for (const mark of document.querySelectorAll("[data-colour]")) {
      if (mark.classList.contains("dot")) mark.style.background = series(mark.dataset.colour);
      else mark.style.color = series(mark.dataset.colour);
    }
    history();
    slices.forEach(slice);
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", () => navigator.clipboard.writeText(button.previousElementSibling.textContent).then(() => {
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 1500);
    }));
  }
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  dark.addEventListener("change", paint);
  paint();
})();
