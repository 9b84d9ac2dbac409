// Draws the chart from the JSON beside it, in the colours of the page, and again when the page turns
// dark, changes its width, or another choice is made. The tables hold the same numbers.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const chart = document.getElementById("chart");
  const show = document.getElementById("show");
  const across = () => document.querySelector('input[name="across"]:checked')?.value ?? "bytes";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const narrow = () => chart.clientWidth < 720;  // no room for the names of all methods

  function shown(line) {
    if (show.value === "all") return true;
    return show.value === "best" ? line.best : line.family === show.value && !line.best;
  }

  const alone = () => show.value !== "all" && show.value !== "best";

  // In a family shown alone every method has a colour and a mark of its own.
  function ofItsOwn(i) {
    const looks = data.palette, round = Math.floor(i / looks.length);
    const { light, dark, dash } = looks[i % looks.length];
    return { light, dark, dash, symbol: looks[(i + round) % looks.length].symbol };
  }

  // The one line that stands for its family is drawn as such; all other methods stay faint until
  // their family is looked at by itself.
  function trace(line, i) {
    const look = alone() ? ofItsOwn(i) : data.looks[line.family];
    const ink = dark.matches ? look.dark : look.light;
    const faint = !line.best && show.value === "all";
    const way = across();
    const points = line.points.filter((p) => p[way] !== null);
    return {
      x: points.map((p) => p[way]), y: points.map((p) => p.y), text: points.map((p) => p.hover),
      mode: way === "bytes" && !faint ? "lines+markers" : "markers", name: line.name,
      ...(narrow() ? { showlegend: line.best }
        : { legendgroup: line.family, legendgrouptitle: { text: line.family } }),
      opacity: faint ? 0.35 : 1, hovertemplate: "%{text}<extra></extra>",
      line: { width: line.best ? 2.5 : 1.2, color: ink, dash: look.dash },
      marker: { size: line.best ? 9 : 6, color: ink, symbol: look.symbol },
      error_y: {
        type: "data", symmetric: false, array: points.map((p) => p.up),
        arrayminus: points.map((p) => p.down), thickness: line.best ? 1.4 : 0.8, width: 3, color: ink,
      },
    };
  }

  function budgets() {
    if (across() !== "bytes") return [];
    return data.budgets.map((at) => ({
      type: "line", x0: at, x1: at, y0: 0, y1: 1, yref: "paper", layer: "below",
      line: { color: colour("--rule"), width: 1, dash: "dot" },
    }));
  }

  function upwards(axis) {
    const log = data.log ? { type: "log", tickvals: data.ticks.map((t) => t[0]),
      ticktext: data.ticks.map((t) => t[1]) } : { ticksuffix: data.suffix };
    const ends = alone() ? { autorange: data.down ? "reversed" : true } : { range: data.range };
    return { ...axis, ...log, ...ends, title: { text: data.metric, standoff: 12 } };
  }

  function layout() {
    const way = data.across[across()];
    const ticks = narrow() ? way.ticks.filter((_, i) => i % 2 === 0) : way.ticks;
    const axis = {
      gridcolor: colour("--grid"), zeroline: false, ticks: "outside", ticklen: 4,
      tickcolor: colour("--rule"), linecolor: colour("--rule"), showline: true, automargin: true,
    };
    const family = getComputedStyle(document.body).fontFamily;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family, size: 13, color: colour("--ink") },
      margin: { l: narrow() ? 44 : 64, r: 8, t: 8, b: 48 },
      xaxis: {
        ...axis, type: "log", range: way.range, showgrid: false, tickvals: ticks.map((t) => t[0]),
        ticktext: ticks.map((t) => t[1]), title: { text: way.title, standoff: 10 },
      },
      yaxis: upwards(axis),
      shapes: budgets(),
      showlegend: true,
      legend: {
        ...(narrow() ? { orientation: "h", yanchor: "top", y: -0.2 } : {}),
        font: { size: 11 }, itemclick: "toggleothers", itemdoubleclick: "toggle",
        groupclick: "toggleitem", tracegroupgap: 6, bgcolor: "rgba(0,0,0,0)",
      },
      uirevision: `${show.value} ${across()}`,
      hoverlabel: {
        bgcolor: colour("--card"), bordercolor: colour("--rule"), align: "left",
        font: { color: colour("--ink"), size: 13, family },
      },
      hovermode: "closest", dragmode: touch ? false : "zoom",
    };
  }

  const options = { responsive: true, displaylogo: false, displayModeBar: false };
  const draw = () => Plotly.react(chart, data.lines.filter(shown).map(trace), layout(), options);
  let pending;
  window.addEventListener("resize", () => { clearTimeout(pending); pending = setTimeout(draw, 150); });
  dark.addEventListener("change", draw);
  document.querySelector(".choices").addEventListener("change", draw);
  document.querySelector(".choices").addEventListener("submit", (event) => event.preventDefault());
  draw();
})();
