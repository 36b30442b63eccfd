// Charts answer when a reader points at them, and can be taken home. Until a reader points at one,
// no library is loaded; downloads need none.
(() => {
  "use strict";

  const here = document.currentScript.src;
  const COLOR = /var\((--[\w-]+)\)|currentColor/g;
  const SCALE = 2; // pixels of a PNG for each of the drawing
  let library;

  // Loads Vega once; resolves to vegaEmbed.
  function vega() {
    library ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = new URL("vega.js", here).href;
      script.onload = () => resolve(window.vegaEmbed);
      script.onerror = () => reject(new Error("the chart library could not be loaded"));
      document.head.append(script);
    });
    return library;
  }

  const drawingOf = (figure) => figure.querySelector(".slm-drawing svg");
  const specOf = (figure) => figure.querySelector("template").content.textContent;

  async function enliven(figure) {
    const embed = await vega();
    const drawn = document.createElement("div");
    // ast: expressions are interpreted, so a strict content policy needs no exception
    const options = { renderer: "svg", ast: true, actions: false };
    await embed(drawn, JSON.parse(specOf(figure)), options);
    // One image with a name and a description, as before; its parts have roles but no names.
    drawn.querySelectorAll("[role]").forEach((part) => part.removeAttribute("role"));
    const [old, live] = [drawingOf(figure), drawn.querySelector("svg")];
    ["role", "aria-label", "aria-describedby"].forEach((name) =>
      live.setAttribute(name, old.getAttribute(name)),
    );
    figure.querySelector(".slm-drawing").replaceChildren(drawn);
    figure.dataset.live = "";
  }

  // Downloads: with literal colors, as no other program knows those of this page

  const background = () => getComputedStyle(document.body).backgroundColor;

  // A color of CSS as #rrggbb, over the background where it is translucent.
  function opaque(color) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [1, 1];
    const pen = canvas.getContext("2d");
    [background(), color].forEach((layer) => {
      pen.fillStyle = layer;
      pen.fillRect(0, 0, 1, 1);
    });
    const [...pixel] = pen.getImageData(0, 0, 1, 1).data.slice(0, 3);
    return `#${pixel.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
  }

  // Replaces the colors in a text by what they are on this page.
  function literal(text, style) {
    return text.replace(COLOR, (_, name) =>
      opaque(name ? style.getPropertyValue(name).trim() : style.color),
    );
  }

  function elementOf(svg, name, attributes, text = "") {
    const element = document.createElementNS(svg.namespaceURI, name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    element.textContent = text;
    return element;
  }

  function standalone(figure) {
    const drawing = drawingOf(figure);
    const style = getComputedStyle(drawing);
    const svg = drawing.cloneNode(true);
    [svg, ...svg.querySelectorAll("*")].forEach((element) => {
      ["fill", "stroke", "style"]
        .filter((name) => element.hasAttribute(name))
        .forEach((name) => element.setAttribute(name, literal(element.getAttribute(name), style)));
    });
    svg.removeAttribute("aria-describedby"); // what it names stays behind in the page
    svg.prepend(
      elementOf(svg, "title", {}, svg.getAttribute("aria-label")),
      elementOf(svg, "desc", {}, figure.querySelector("figcaption [id]").textContent),
      elementOf(svg, "rect", { width: "100%", height: "100%", fill: opaque(background()) }),
    );
    return svg;
  }

  function svgBlob(figure) {
    const text = new XMLSerializer().serializeToString(standalone(figure));
    return new Blob([text], { type: "image/svg+xml" });
  }

  async function pngBlob(figure) {
    const { width, height } = drawingOf(figure).viewBox.baseVal;
    const url = URL.createObjectURL(svgBlob(figure));
    try {
      const image = new Image(width * SCALE, height * SCALE);
      image.src = url;
      await image.decode();
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [width * SCALE, height * SCALE];
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      return await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  function specBlob(figure) {
    const style = getComputedStyle(drawingOf(figure));
    const color = new RegExp(`^(?:${COLOR.source})$`);
    const spec = JSON.parse(specOf(figure), (_, value) =>
      typeof value === "string" && color.test(value) ? literal(value, style) : value,
    );
    const text = JSON.stringify({ ...spec, background: opaque(background()) }, null, 1);
    return new Blob([text], { type: "application/json" });
  }

  const BLOBS = { svg: svgBlob, png: pngBlob, json: specBlob };

  async function download(figure, kind) {
    const ending = kind === "json" ? "vl.json" : kind;
    window.slm.save(await BLOBS[kind](figure), `${figure.id}.${ending}`);
  }

  function offer(figure) {
    const tools = figure.querySelector(".slm-tools");
    tools.addEventListener("click", ({ target }) => {
      const button = target.closest("[data-download]");
      if (!button) return;
      download(figure, button.dataset.download).catch((error) => {
        console.error(error);
        button.textContent += ": not possible here";
      });
    });
    tools.hidden = false;
  }

  function awaitPointer(figure) {
    const drawing = figure.querySelector(".slm-drawing");
    const once = () => {
      ["pointerenter", "focus"].forEach((name) => drawing.removeEventListener(name, once));
      enliven(figure).catch((error) => console.error(`The chart stays a drawing: ${error}`));
    };
    ["pointerenter", "focus"].forEach((name) => drawing.addEventListener(name, once));
  }

  document.querySelectorAll("figure.slm-chart").forEach((figure) => {
    awaitPointer(figure);
    offer(figure);
  });

  window.slm = Object.assign(window.slm ?? {}, { vega });
})();
