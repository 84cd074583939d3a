// The search page. What is asked stands in the address, but for files that were dropped.

const FRAMES = 5; // of a strip, as the server makes them
const STEP = 24; // results at first, and more each time
const LENGTHS = {
  short: "duration<1m",
  middle: "duration>=1m duration<=10m",
  long: "duration>10m",
};

const $ = (id) => document.getElementById(id);
const fields = ["text", "path", "length", "kind", "from", "to"].map($);
const state = { file: null, like: null, name: "", k: STEP };
let running = null;
let uploadBytes = Infinity;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const two = (n) => String(Math.floor(n)).padStart(2, "0");
  const [hours, minutes, rest] = [tenths / 36000, (tenths / 600) % 60, tenths % 600];
  const text = `${two(rest / 10)}${rest % 10 ? `.${rest % 10}` : ""}`;
  return hours >= 1
    ? `${Math.floor(hours)}:${two(minutes)}:${text}`
    : `${Math.floor(minutes)}:${text}`;
}

const between = (span) => `${clock(span.start)}–${clock(span.end)}`;

// What is asked

function filter() {
  const path = $("path").value.trim().replace(/["\\]/g, "\\$&");
  return [
    path && `path~"${path}"`,
    LENGTHS[$("length").value],
    $("kind").value && `kind=${$("kind").value}`,
    $("from").value && `date>=${$("from").value}`,
    $("to").value && `date<=${$("to").value}`,
  ].filter(Boolean).join(" ");
}

function setMedium({ file = null, like = null, name = "" }) {
  Object.assign(state, { file, like, name });
  const old = $("chip-picture").firstChild;
  if (old?.src?.startsWith("blob:")) URL.revokeObjectURL(old.src);
  $("chip").hidden = !file && !like;
  if ($("chip").hidden) return;
  $("chip-name").textContent = file ? file.name : `like ${name}`;
  const video = file?.type.startsWith("video/");
  const picture = element(video ? "video" : "img", { muted: true, alt: "" });
  picture.src = file ? URL.createObjectURL(file) : `/strip/${like}`;
  $("chip-picture").replaceChildren(picture);
  $("text").placeholder = "Add how it should differ";
}

function takeFile(file) {
  if (!file) return;
  if (file.size > uploadBytes - 10000) {
    fault(`${file.name} is larger than ${Math.round(uploadBytes / 1e6)} MB`);
    return;
  }
  setMedium({ file });
  ask();
}

function address() {
  const asked = new URLSearchParams();
  for (const field of fields) if (field.value) asked.set(field.id, field.value);
  if (state.like) {
    asked.set("like", state.like);
    asked.set("name", state.name);
  }
  return asked.size ? `/?${asked}` : "/";
}

function readAddress() {
  const asked = new URLSearchParams(location.search);
  for (const field of fields) {
    field.value = asked.get(field.id) ?? "";
    if (field.selectedIndex < 0) field.selectedIndex = 0;
  }
  setMedium({ like: asked.get("like"), name: asked.get("name") ?? "" });
  search();
}

function ask() {
  state.k = STEP;
  history.pushState(null, "", address());
  search();
}

// Searching

function request(signal) {
  const asked = { k: state.k, filter: filter(), text: $("text").value.trim() };
  if (!state.file) {
    if (state.like) asked.like = state.like;
    return fetch(`/api/search?${new URLSearchParams(asked)}`, { signal });
  }
  const body = new FormData();
  for (const [name, value] of Object.entries(asked)) body.set(name, value);
  body.set("file", state.file);
  return fetch("/api/search", { method: "POST", body, signal });
}

async function search() {
  running?.abort();
  for (const field of fields) field.classList.toggle("on", Boolean(field.value));
  $("text").placeholder = state.file || state.like
    ? "Add how it should differ" : "Describe a moment, or drop an image or a clip";
  document.title = $("text").value.trim() || "Video search";
  if (!$("text").value.trim() && !state.file && !state.like) {
    start();
    return;
  }
  running = new AbortController();
  const { signal } = running;
  $("status").className = "";
  $("status").textContent = "Searching …";
  $("results").classList.add("old");
  try {
    const response = await request(signal);
    const answer = await response.json();
    if (!response.ok) {
      throw new Error(answer.detail?.[0]?.msg ?? answer.detail);
    }
    show(answer);
  } catch (error) {
    if (!signal.aborted) fault(error.message);
  }
}

function start() {
  $("status").textContent = "";
  $("more").hidden = true;
  const hello = element("div", { className: "start" },
    element("h1", { textContent: "Find a moment in your videos" }),
    element("p", { textContent: "Say what happens in it, or drop an image or a clip "
      + "anywhere on this page. Add a text to a picture to say how it should differ." }));
  $("results").className = "";
  $("results").replaceChildren(hello);
}

function fault(message) {
  $("results").replaceChildren();
  $("more").hidden = true;
  $("status").className = "fault";
  $("status").textContent = message;
}

function show({ results, seconds }) {
  const count = results.length;
  $("status").textContent = count
    ? `${count} ${count === 1 ? "result" : "results"} in ${Math.round(seconds * 1000)} ms`
    : "Nothing was found under these filters.";
  $("results").className = "grid";
  $("results").replaceChildren(...results.map(card));
  $("more").hidden = count < state.k || state.k >= 480;
}

// Results

function card(hit) {
  const made = $("card").content.cloneNode(true).firstElementChild;
  const part = (name) => made.querySelector(`.${name}`);
  const cut = hit.file.lastIndexOf("/");
  part("name").textContent = hit.file.slice(cut + 1);
  // Cut at its beginning where it is too long; the mark keeps its slash in front.
  part("folder").textContent = `\u200e${hit.file.slice(0, cut)}`;
  part("folder").title = [hit.file, ...hit.also].join("\n");
  part("score").textContent = hit.score.toFixed(3);
  if (hit.also.length) part("score").textContent += ` · ${hit.also.length + 1} copies`;
  part("like").onclick = () => {
    $("text").value = "";
    setMedium({ like: hit.id, name: hit.file.slice(cut + 1) });
    scrollTo(0, 0);
    ask();
  };
  thumbnail(part("media"), hit);
  if (!hit.missing && hit.spans.length) {
    for (const span of [hit, ...hit.spans]) {
      const chip = element("button", { type: "button", textContent: between(span) });
      chip.onclick = () => play(part("media"), span, chip);
      part("spans").append(chip);
    }
  }
  return made;
}

function thumbnail(media, hit) {
  if (hit.missing) {
    media.append(element("p", { className: "note", textContent: "Deleted or changed since it was indexed" }));
    return;
  }
  const image = hit.kind === "image";
  const frames = element("img", { src: `/strip/${hit.id}`, alt: "", loading: "lazy" });
  frames.className = image ? "one" : "";
  frames.onerror = () => media.replaceChildren(element("p", { className: "note", textContent: "No picture of it" }));
  const label = image ? "Open the image" : `Play from ${clock(hit.start)}`;
  const thumb = image
    ? element("a", { href: `/media/${hit.id}`, target: "_blank", rel: "noopener" })
    : element("button", { type: "button" });
  thumb.className = "thumb";
  thumb.setAttribute("aria-label", label);
  thumb.append(frames);
  media.append(thumb);
  if (image) return;
  const at = (frame) => { frames.style.transform = `translateX(${(-100 / FRAMES) * frame}%)`; };
  const middle = Math.floor(FRAMES / 2);
  at(middle);
  thumb.onmousemove = (event) => {
    const place = event.offsetX / thumb.clientWidth;
    at(Math.min(FRAMES - 1, Math.max(0, Math.floor(place * FRAMES))));
  };
  thumb.onmouseleave = () => at(middle);
  thumb.onclick = () => play(media, hit, media.parentNode.querySelector(".spans button"));
  media.append(
    element("span", { className: "play" }),
    element("span", { className: "time", textContent: hit.kind === "window" ? between(hit) : clock(Math.round(hit.duration)) }),
  );
}

// Plays a span in its place; the browser itself stops at the end that the address names.
function play(media, span, chip) {
  for (const other of document.querySelectorAll("video")) other.pause();
  for (const other of media.parentNode.querySelectorAll(".on")) other.classList.remove("on");
  chip?.classList.add("on");
  const video = element("video", { controls: true, autoplay: true, playsInline: true });
  video.onerror = () => {
    media.classList.add("frames");
    media.replaceChildren(
      element("img", { src: `/strip/${span.id}`, alt: "Frames of the span" }),
      element("p", { className: "note", textContent: "This browser cannot play the format of this video. These are frames of it." }),
    );
  };
  video.src = `/media/${span.id}#t=${span.start},${span.end}`;
  media.classList.remove("frames");
  media.replaceChildren(video);
}

// Events

$("form").onsubmit = (event) => {
  event.preventDefault();
  ask();
};
for (const field of fields.slice(1)) field.onchange = ask;
$("file").onchange = () => {
  takeFile($("file").files[0]);
  $("file").value = "";
};
$("chip-remove").onclick = () => {
  setMedium({});
  ask();
  $("text").focus();
};
$("more").onclick = () => {
  state.k += STEP;
  search();
};
addEventListener("popstate", readAddress);
addEventListener("paste", (event) => takeFile(event.clipboardData.files[0]));
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement === document.body) {
    event.preventDefault();
    $("text").focus();
  }
});

let depth = 0; // of the elements that the drag is over
const dragged = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => {
  if (dragged(event)) $("drop").hidden = !(depth += 1);
});
addEventListener("dragleave", (event) => {
  if (dragged(event)) $("drop").hidden = !(depth -= 1);
});
addEventListener("dragover", (event) => {
  if (dragged(event)) event.preventDefault();
});
addEventListener("drop", (event) => {
  depth = 0;
  $("drop").hidden = true;
  if (!dragged(event)) return;
  event.preventDefault();
  takeFile(event.dataTransfer.files[0]);
});

fetch("/api/info").then((response) => response.json()).then((info) => {
  uploadBytes = info.upload_bytes;
  $("info").textContent = `${info.files.toLocaleString()} files, ${info.spans.toLocaleString()} spans of them indexed`;
});
$("filters").open = matchMedia("(min-width: 721px)").matches;
readAddress();
