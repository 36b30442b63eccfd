// Draws a chart again with tooltips when a reader points at it; until then no library is loaded.
(() => {
  "use strict";

  const here = document.currentScript.src;
  let library;

  function load() {
    library ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = new URL("vega.js", here).href;
      script.onload = resolve;
      script.onerror = reject;
      document.head.append(script);
    });
    return library;
  }

  async function enliven(figure) {
    await load();
    const spec = JSON.parse(figure.querySelector("template").content.textContent);
    const drawn = document.createElement("div");
    // ast: expressions are interpreted, so a strict content policy needs no exception
    await window.vegaEmbed(drawn, spec, { renderer: "svg", ast: true, actions: false });
    figure.querySelector(".slm-drawing").replaceChildren(drawn);
    figure.dataset.live = "";
  }

  document.querySelectorAll("figure.slm-chart").forEach((figure) => {
    const once = () => {
      ["pointerenter", "focus"].forEach((name) => figure.removeEventListener(name, once));
      enliven(figure).catch((error) => console.error(`The chart stays a drawing: ${error}`));
    };
    ["pointerenter", "focus"].forEach((name) => figure.addEventListener(name, once));
  });
})();
