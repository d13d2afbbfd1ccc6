// What the charts of every page have in common, with Chart.js. Texts reach a page as text only, never as markup.
"use strict";
const shared = (() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const series = (index) => colour("series-" + (index % 6));
  const faded = (hex, share) => hex + Math.round(255 * share).toString(16).padStart(2, "0");
  const exact = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });
  const minus = (text) => (text === "-0" ? "0" : text.replace("-", "\u2212"));

  const crosshair = {
    id: "crosshair",
    beforeDatasetsDraw(chart) {
      const [active] = chart.tooltip?.getActiveElements() ?? [];
      if (!active) return;
      const { ctx, chartArea } = chart;
      ctx.save();
      ctx.strokeStyle = colour("line");
      ctx.beginPath();
      ctx.moveTo(active.element.x, chartArea.top);
      ctx.lineTo(active.element.x, chartArea.bottom);
      ctx.stroke();
      ctx.restore();
    },
  };

  function line(label, points, stroke, more = {}) {
    return {
      label, data: points, borderColor: stroke, backgroundColor: stroke, borderWidth: 1, pointRadius: points.length === 1 ? 3 : 0,
      pointHoverRadius: 3, pointHitRadius: 8, borderJoinStyle: "round", ...more,
    };
  }

  // Round ticks inside an axis that ends where its data do; Chart.js would widen the axis to whole ticks.
  function roundTicks(axis, count) {
    const least = (axis.max - axis.min) / count;
    if (!(least > 0)) return;
    const power = 10 ** Math.floor(Math.log10(least));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= least * 0.999);
    const first = Math.ceil(axis.min / step), last = Math.floor(axis.max / step);
    axis.ticks = Array.from({ length: last - first + 1 }, (_, i) => ({ value: (first + i) * step }));
  }

  function axis(small, more) {
    return {
      border: { display: false },
      grid: { color: colour("line"), drawTicks: false, display: !more.flat },
      ticks: {
        color: colour("muted"), padding: 8, maxRotation: 0, font: { size: small ? 11 : 12 }, maxTicksLimit: small ? 4 : 7,
        callback: (value) => minus(exact.format(value)),
      },
      ...more,
    };
  }

  function tooltip(context) {
    const dataset = context.dataset;
    const value = minus(exact.format(context.parsed.y));
    const interval = dataset.interval?.[context.dataIndex];
    const range = interval ? `  (${interval.map((end) => minus(exact.format(end))).join(" to ")})` : "";
    const name = dataset.label.length > 44 ? dataset.label.slice(0, 43) + "\u2026" : dataset.label;
    return `${name}: ${value}${range}`;
  }

  function draw(id, datasets, more = {}) {
    Chart.getChart(id)?.destroy();
    return new Chart(id, {
      type: "line",
      data: { datasets },
      plugins: [crosshair, ...(more.plugins ?? [])],
      options: {
        parsing: false, normalized: true, animation: false, responsive: true, maintainAspectRatio: false,
        interaction: { mode: "nearest", axis: "x", intersect: false },
        layout: { padding: { right: 8, top: 6 } },
        scales: {
          x: axis(more.small, { type: "linear", min: more.min ?? 0, max: more.max, flat: true, ...more.x }),
          y: axis(more.small, {
            grace: "5%", bounds: "data", afterBuildTicks: (scale) => roundTicks(scale, more.small ? 5 : 7), ...more.y,
          }),
        },
        plugins: {
          legend: { display: false },
          tooltip: {
            backgroundColor: colour("ink"), titleColor: colour("paper"), bodyColor: colour("paper"), padding: 10,
            cornerRadius: 6, usePointStyle: true, boxWidth: 14, boxPadding: 6,
            filter: (item) => !item.dataset.silent,
            callbacks: {
              title: more.title ?? ((items) => (items.length ? exact.format(items[0].parsed.x) + " env steps" : "")),
              label: more.label ?? tooltip,
              labelPointStyle: () => ({ pointStyle: "line", rotation: 0 }),
              labelColor: ({ dataset }) => ({ borderColor: dataset.borderColor, backgroundColor: dataset.borderColor }),
            },
          },
        },
      },
    });
  }

  return { dark, calm, colour, series, faded, exact, minus, line, roundTicks, draw };
})();
