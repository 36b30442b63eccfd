// What the scripts of several pages need.
(() => {
  "use strict";

  // An element with attributes, of which null ones are left out. What comes from cards and records
  // enters as text.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => {
      if (value !== null) made.setAttribute(name, value);
    });
    made.append(...children);
    return made;
  }

  // Hands a file to the reader.
  function save(blob, name) {
    const url = URL.createObjectURL(blob);
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000); // after the browser has taken it
  }

  window.slm = Object.assign(window.slm ?? {}, { element, save });
})();
