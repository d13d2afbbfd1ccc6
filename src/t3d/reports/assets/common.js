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
      pointHoverRadius: 3, pointHitRadius: 8, borderJoinStyle: "round",
      clip: 8, // a point or a thick line at the chart's edge is drawn whole
      ...more,
    };
  }

  const roundStep = (span, count) => {
    const least = span / count, power = 10 ** Math.floor(Math.log10(least));
    return power * [1, 2, 5, 10].find((factor) => factor * power >= least * 0.999);
  };

  // Round ticks inside an axis.
  function roundTicks(axis, count) {
    if (!(axis.max > axis.min)) return;
    const step = roundStep(axis.max - axis.min, count);
    const first = Math.ceil(axis.min / step - 1e-9), last = Math.floor(axis.max / step + 1e-9);
    axis.ticks = Array.from({ length: last - first + 1 }, (_, i) => ({ value: (first + i) * step }));
  }

  // An axis that begins and ends with a round tick, so that one stands above all that is drawn.
  function roundEnds(axis, count) {
    if (!(axis.max > axis.min)) return;
    const step = roundStep(axis.max - axis.min, count);
    axis.min = Math.floor(axis.min / step + 1e-9) * step;
    axis.max = Math.ceil(axis.max / step - 1e-9) * step;
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
            bounds: "data", afterDataLimits: (scale) => roundEnds(scale, more.small ? 4 : 6),
            afterBuildTicks: (scale) => roundTicks(scale, more.small ? 4 : 6), ...more.y,
          }),
        },
        plugins: {
          legend: { display: false },
          tooltip: {
            backgroundColor: colour("ink"), titleColor: colour("paper"), bodyColor: colour("paper"), padding: 10,
            cornerRadius: 6, usePointStyle: true, boxWidth: 14, boxPadding: 6,
            filter: (item) => !item.dataset.silent,
            callbacks: {
              title: more.title ?? ((items) => (items.length ? `${exact.format(items[0].parsed.x)} ${more.unit ?? "env steps"}` : "")),
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
