// Draws the chart from the JSON beside it, in the colours of the page, and again when the page
// turns dark or changes its width. The table below the chart holds the same numbers.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const chart = document.getElementById("chart");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const unit = data.share ? 100 : 1;  // shares are drawn in per cent
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function band(line) {
    const lower = line.map((p) => unit * (p.metric - p.spread));
    const upper = line.map((p) => unit * (p.metric + p.spread));
    const sizes = line.map((p) => p.bytes);
    return {
      x: sizes.concat(sizes.slice().reverse()), y: upper.concat(lower.reverse()),
      fill: "toself", fillcolor: colour("--band"), line: { width: 0 }, mode: "lines",
      hoverinfo: "skip", name: "spread over seeds",
    };
  }

  function traces() {
    const hover = { hovertemplate: "%{text}<extra></extra>" };
    const dots = {
      x: data.points.map((p) => p.bytes), y: data.points.map((p) => unit * p.metric),
      text: data.points.map((p) => p.hover), mode: "markers", name: "measured",
      marker: { size: 6, color: colour("--dot") }, ...hover,
    };
    const line = {
      x: data.line.map((p) => p.bytes), y: data.line.map((p) => unit * p.metric), mode: "lines",
      name: "best that fits", line: { width: 2.5, color: colour("--curve") }, hoverinfo: "skip",
    };
    const picks = {
      x: data.picks.map((p) => p.bytes), y: data.picks.map((p) => unit * p.metric),
      text: data.picks.map((p) => p.hover), mode: "markers", name: "chosen",
      marker: {
        size: 12, color: colour("--pick"), line: { width: 2, color: colour("--paper") },
      }, ...hover,
    };
    const spread = data.line.some((p) => p.spread > 0) ? [band(data.line)] : [];
    return [...spread, line, dots, ...(data.picks.length ? [picks] : [])];
  }

  // The curve bends towards large and good: away from it, and from the dots beside it, is room for
  // words, each with a short line to its mark.
  function label(pick, narrow) {
    const away = (data.higher ? 1 : -1) * (narrow ? 26 + 18 * pick.row : 32 + 36 * pick.row);
    return {
      x: Math.log10(pick.bytes), y: unit * pick.metric, text: narrow ? pick.name : pick.label,
      showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: colour("--pick"), standoff: 7,
      ax: pick.ends ? -8 : 8, ay: away, align: pick.ends ? "right" : "left",
      xanchor: pick.ends ? "right" : "left", yanchor: data.higher ? "top" : "bottom",
      font: { color: colour("--pick"), size: 13 }, bgcolor: colour("--veil"), borderpad: 1,
    };
  }

  function layout() {
    const narrow = chart.clientWidth < 560;
    const ticks = narrow ? data.fewTicks : data.ticks;
    const axis = {
      gridcolor: colour("--grid"), zeroline: false, ticks: "outside", ticklen: 4,
      tickcolor: colour("--rule"), linecolor: colour("--rule"), showline: true, automargin: true,
    };
    const family = getComputedStyle(document.body).fontFamily;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family, size: 13, color: colour("--ink") },
      margin: { l: narrow ? 48 : 64, r: 12, t: 8, b: 48 },
      xaxis: {
        ...axis, type: "log", range: data.range, tickvals: ticks.map((t) => t[0]),
        ticktext: ticks.map((t) => t[1]), title: { text: "stored size (logarithmic)", standoff: 10 },
      },
      yaxis: {
        ...axis, ticksuffix: data.share ? " %" : "", title: narrow ? undefined
          : { text: data.metric, standoff: 12 },
      },
      annotations: data.picks.map((pick) => label(pick, narrow)),
      legend: {
        x: 0.99, xanchor: "right", y: data.higher ? 0.02 : 0.98,
        yanchor: data.higher ? "bottom" : "top", bgcolor: "rgba(0,0,0,0)",
      },
      hoverlabel: {
        bgcolor: colour("--card"), bordercolor: colour("--rule"), align: "left",
        font: { color: colour("--ink"), size: 13, family },
      },
      hovermode: "closest", hoverdistance: 40, dragmode: touch ? false : "zoom",
    };
  }

  const options = { responsive: true, displaylogo: false, displayModeBar: false };
  const draw = () => Plotly.react(chart, traces(), layout(), options);
  let pending;
  window.addEventListener("resize", () => { clearTimeout(pending); pending = setTimeout(draw, 150); });
  dark.addEventListener("change", draw);
  draw();
})();
