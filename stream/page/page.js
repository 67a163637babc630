"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const chart = document.getElementById("chart");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 760px)");
  const fills = ["#5b8def", "#45b29d", "#b08be0", "#e0a458", "#8a97a8"];
  const severities = {
    low: ["#8a97a8", 8, "circle"], medium: ["#e8a020", 9, "circle"],
    high: ["#ee6c2b", 11, "diamond"], critical: ["#e5383b", 12, "diamond"],
  };
  const when = (ms) => new Date(ms).toISOString();

  const traffic = data.types.map((type, i) => ({
    type: "scatter", mode: "lines", name: type, x: data.time.map(when), y: data.counts[i],
    stackgroup: "traffic", line: { width: 0.8, color: fills[i % 5], shape: "linear" },
    fillcolor: fills[i % 5] + "77", hovertemplate: "%{y} " + type + "<extra></extra>",
  }));
  const alerts = Object.entries(severities).map(([severity, [color, size, symbol]]) => {
    const shown = data.alerts.filter((alert) => alert[2] === severity);
    return {
      type: "scatter", mode: "markers", name: severity + " alert", cliponaxis: false,
      x: shown.map((alert) => when(alert[0])), y: shown.map((alert) => alert[1]),
      text: shown.map((alert) => alert[3]), hovertemplate: "%{text}<extra></extra>",
      marker: { color, size, symbol, line: { width: 1, color: "#ffffff" } },
    };
  }).filter((trace) => trace.x.length);

  const layout = () => {
    const css = getComputedStyle(document.documentElement);
    const ink = css.getPropertyValue("--ink").trim();
    const line = css.getPropertyValue("--line").trim();
    const bad = css.getPropertyValue("--bad").trim();
    return {
      font: { color: ink, family: getComputedStyle(document.body).fontFamily, size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      hoverlabel: { bgcolor: css.getPropertyValue("--card").trim(), bordercolor: line, font: { color: ink }, align: "left" },
      margin: narrow.matches ? { l: 38, r: 10, t: 30, b: 40 } : { l: 52, r: 18, t: 34, b: 40 },
      xaxis: { type: "date", gridcolor: line, linecolor: line, nticks: narrow.matches ? 5 : 12, zeroline: false },
      yaxis: {
        gridcolor: line, zeroline: false, rangemode: "tozero", fixedrange: true,
        title: { text: narrow.matches ? "" : "events per " + data.bucket, standoff: 8 },
      },
      legend: { orientation: "h", x: 0, y: narrow.matches ? -0.2 : -0.14, yanchor: "top", font: { size: 12 } },
      shapes: data.attacks.map((attack) => ({
        type: "rect", xref: "x", yref: "paper", y0: 0, y1: 1, layer: "below",
        x0: when(attack.from), x1: when(attack.to), fillcolor: bad, opacity: 0.22, line: { width: 1, color: bad },
      })),
      annotations: data.attacks.map((attack) => ({
        x: when((attack.from + attack.to) / 2), y: 1, xref: "x", yref: "paper", yanchor: "bottom",
        text: attack.label, showarrow: false, font: { color: bad, size: 12 },
      })),
    };
  };
  const draw = () => Plotly.react(chart, [...traffic, ...alerts], layout(), { displayModeBar: false, responsive: true });
  draw();
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
})();
