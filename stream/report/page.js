"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 760px)");
  const print = matchMedia("print");
  const fills = ["#5b8def", "#45b29d", "#b08be0", "#e0a458", "#8a97a8"];
  const dashes = ["solid", "dash", "dot", "dashdot"];
  const severities = {
    low: ["#8a97a8", 7, "circle"], medium: ["#e8a020", 8, "circle"],
    high: ["#ee6c2b", 10, "diamond"], critical: ["#e5383b", 11, "diamond"],
  };
  const when = (ms) => new Date(ms).toISOString();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (name) => plain(name.length > 32 ? name.slice(0, 31) + "…" : name);

  const axis = (options) => ({
    gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, fixedrange: true,
    automargin: true, ...options,
  });
  const common = () => ({
    font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    hoverlabel: {
      bgcolor: colour("--card"), bordercolor: colour("--line"), align: "left",
      font: { color: colour("--ink") },
    },
    margin: narrow.matches ? { l: 40, r: 12, t: 26, b: 36 } : { l: 54, r: 18, t: 30, b: 40 },
    legend: { orientation: "h", x: 0, xanchor: "left", y: -0.2, yanchor: "top", font: { size: 12 } },
  });

  const shade = (window) => colour(window.is_neutral ? "--soft" : "--bad");
  const traffic = (data) => ({
    traces: [
      ...data.types.map((type, i) => ({
        type: "scatter", mode: "lines", name: short(type), x: data.time.map(when), y: data.counts[i],
        stackgroup: "traffic", line: { width: 0.8, color: fills[i % 5] },
        fillcolor: fills[i % 5] + "77", hovertemplate: "%{y} " + plain(type) + "<extra></extra>",
      })),
      ...Object.entries(severities).map(([severity, [color, size, symbol]]) => {
        const shown = data.alerts.filter((alert) => alert[2] === severity);
        return {
          type: "scatter", mode: "markers", name: severity + " alert", cliponaxis: false,
          x: shown.map((alert) => when(alert[0])), y: shown.map((alert) => alert[1]),
          text: shown.map((alert) => alert[3]), hovertemplate: "%{text}<extra></extra>",
          marker: { color, size, symbol, line: { width: 1, color: colour("--card") } },
        };
      }).filter((trace) => trace.x.length),
    ],
    layout: {
      xaxis: axis({ type: "date", nticks: narrow.matches ? 5 : 12 }),
      yaxis: axis({
        rangemode: "tozero", title: { text: narrow.matches ? "" : "events per " + data.bucket, standoff: 8 },
      }),
      shapes: data.windows.map((window) => ({
        type: "rect", xref: "x", yref: "paper", y0: 0, y1: 1, layer: "below", opacity: window.is_neutral ? 0.1 : 0.22,
        x0: when(window.first_ms), x1: when(window.last_ms), fillcolor: shade(window),
        line: { width: 1, color: shade(window) },
      })),
      annotations: data.windows.map((window) => ({
        x: when((window.first_ms + window.last_ms) / 2), y: 1, xref: "x", yref: "paper", yanchor: "bottom",
        text: plain(window.label), showarrow: false, font: { color: shade(window), size: 12 },
      })),
    },
  });

  const curves = (data) => {
    let drawn = 0;
    const traces = data.lines.flatMap((line) => {
      const i = line.reference ? -1 : drawn++;
      const color = line.reference ? colour("--soft") : colour("--series-" + (i % 4 + 1));
      const band = line.low.length ? [line.low, line.high].map((y, upper) => ({
        type: "scatter", mode: "lines", x: line.x, y, line: { width: 0 }, hoverinfo: "skip",
        showlegend: false, fill: upper ? "tonexty" : "none", fillcolor: color + "2e",
      })) : [];
      return [...band, {
        type: "scatter", mode: line.x.length < 3 ? "lines+markers" : "lines", name: short(line.name),
        x: line.x, y: line.y,
        line: { width: line.reference ? 1.2 : 2.2, color, dash: line.reference ? "dot" : dashes[(i + (i >> 2)) % 4] },
        hovertemplate: plain(line.name) + ": %{y:.4~g} at %{x:.4~g}<extra></extra>",
      }];
    });
    const scale = (options) => axis({
      type: options.dates ? "date" : options.log ? "log" : "linear", title: { text: plain(options.title), standoff: 6 },
      ...(options.share && !options.log ? { rangemode: "tozero", tickformat: ".0%" } : {}),
      ...(options.log ? { tickformat: "~g", dtick: 1 } : {}),
    });
    return { traces, layout: { xaxis: scale(data.x), yaxis: scale(data.y), legend: { ...common().legend, y: -0.26 } } };
  };

  const draw = () => {
    for (const [key, data] of Object.entries(charts)) {
      const place = document.getElementById("chart-" + key);
      const { traces, layout } = data.kind === "traffic" ? traffic(data) : curves(data);
      const size = print.matches ? { width: Math.min(place.clientWidth, 680), height: 300 } : {};
      Plotly.react(place, traces, { ...common(), ...layout, ...size }, { displayModeBar: false, responsive: true });
    }
  };
  // on paper nothing can be opened: open all details, except tables that repeat a chart
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open], .values)")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
  draw();
  for (const changing of [dark, narrow, print]) changing.addEventListener("change", draw);
})();
