"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();

  // Draw a figure in the column's width, in the theme of the page.
  async function draw(figure) {
    const place = document.querySelector(`#figure-${figure.name} .chart`);
    const theme = dark.matches ? "dark" : "light";
    const spec = { ...figure.spec, width: "container", autosize: { type: "fit-x", contains: "padding", resize: true } };
    const { view } = await vegaEmbed(place, spec, {
      actions: false, ast: true, mode: "vega-lite", renderer: "svg",
      config: data.themes[theme], tooltip: { theme },
    });
    views.get(figure.name)?.finalize();
    views.set(figure.name, view);
  }

  // The zoomed axis is set by the signal of its selection, as by the wheel.
  function act(figure, what) {
    const view = views.get(figure.name);
    const [from, to] = view.scale("x").domain();
    const middle = (from + to) / 2, half = (to - from) / 2;
    const next = {
      in: [middle - half / 2, middle + half / 2],
      out: [middle - half * 2, middle + half * 2],
      left: [from - half / 2, to - half / 2],
      right: [from + half / 2, to + half / 2],
      reset: null,
    }[what];
    view.signal("zoom_start", next).runAsync();
  }

  for (const figure of data.figures) {
    if (!figure.zooms) continue;
    const buttons = document.querySelector(`#figure-${figure.name} .buttons`);
    buttons.hidden = false;
    buttons.addEventListener("click", (event) => {
      if (event.target.dataset.act) act(figure, event.target.dataset.act);
    });
  }

  for (const box of document.querySelectorAll(".cases")) {
    const form = box.querySelector("form"), cases = [...box.querySelectorAll(".case")];
    const checks = [...form.querySelectorAll("[name=verdict]")];
    const has = (verdict) => cases.some((each) => each.dataset.verdict === verdict);
    const wrong = has("FAIL") || has("ERROR");
    for (const check of checks) {
      check.checked = !wrong || ["FAIL", "ERROR"].includes(check.value);
      check.closest("label").hidden = !has(check.value);
    }
    const filter = () => {
      const verdicts = checks.filter((check) => check.checked).map((check) => check.value);
      const severity = form.elements.severity.value, area = form.elements.area.value;
      const text = form.elements.text.value.toLowerCase();
      let shown = 0;
      for (const each of cases) {
        const fits = verdicts.includes(each.dataset.verdict)
          && (!severity || each.dataset.severity === severity)
          && (!area || each.dataset.area === area)
          && (!text || each.textContent.toLowerCase().includes(text));
        each.hidden = !fits;
        shown += fits;
      }
      form.querySelector(".shown").textContent = `${shown} of ${cases.length} cases`;
    };
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  }

  const all = () => Promise.all(data.figures.map(draw));
  dark.addEventListener("change", all);
  // For tests, and for users who change a chart in the console.
  window.report = { views, ready: all() };
})();
