// The blind tests: rating against a reference with hidden reference and low anchor, and ABX.

const HIDDEN_REFERENCE = "hidden reference";
const LOW_ANCHOR = "low anchor";

const room = document.getElementById("room");
const roomBody = document.getElementById("room-body");
let test = null; // the one under way

function shuffled(items) {
  const copy = [...items];
  for (let last = copy.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [copy[last], copy[other]] = [copy[other], copy[last]];
  }
  return copy;
}

function systemNames() {
  return [...new Set(cards.flatMap((card) => card.takes.slice(1).map((take) => take.name)))];
}

function transportOf(deck) {
  const play = element("button", { type: "button", className: "play primary", onclick: () => deck.toggle() });
  const position = element("input", { type: "range", className: "position", min: 0, max: 1000, step: 1, value: 0 });
  position.setAttribute("aria-label", "Position");
  position.oninput = () => deck.seek((position.value / 1000) * deck.seconds);
  const clock = element("output", { className: "clock" });
  const loop = element("button", { type: "button", className: "loop", textContent: "Repeat", onclick: () => deck.setLoop(!deck.isLooping) });
  const drawPosition = () => {
    position.value = (deck.position / deck.seconds) * 1000;
    clock.textContent = `${deck.position.toFixed(1)} of ${deck.seconds.toFixed(1)} s`;
  };
  let isFollowed = false;
  const draw = () => {
    play.textContent = deck.isLoading ? "Loading" : deck.isPlaying ? "Pause" : "Play";
    loop.setAttribute("aria-pressed", deck.isLooping);
    drawPosition();
    if (!deck.isPlaying || isFollowed) return;
    isFollowed = true;
    follow(deck, () => {
      isFollowed = deck.isPlaying;
      drawPosition();
    });
  };
  return { bar: element("div", { className: "transport" }, play, position, clock, loop), draw };
}

function deckOf(card, takes, onChange) {
  const deck = new Deck(takes, card.deck.rateHz, card.seconds, onChange);
  deck.isAlwaysMatched = true;
  deck.isLooping = true;
  return deck;
}

// Common to both tests: trials in turn, a deck for each, a room to show it in.
class Test {
  constructor(title, trials) {
    Object.assign(this, { title, trials });
    this.session = crypto.getRandomValues(new Uint32Array(2)).join("-");
    this.results = [];
    this.index = 0;
  }

  open() {
    test = this;
    Sound.playing?.pause();
    room.showModal();
    this.show();
  }

  show() {
    this.deck?.drop();
    const { card } = this.trials[this.index];
    const isPlaying = this.index > 0;
    document.getElementById("room-title").textContent = `${this.title}: ${this.index + 1} of ${this.trials.length}`;
    this.buttons = [];
    const transport = { draw() {} };
    this.deck = deckOf(card, this.takes(), () => {
      transport.draw();
      this.buttons.forEach((button, index) => button.setAttribute("aria-pressed", index === this.deck.heard));
    });
    Object.assign(transport, transportOf(this.deck));
    roomBody.replaceChildren(transport.bar, ...this.build());
    this.deck.onChange();
    room.scrollTop = 0;
    if (isPlaying) this.deck.play();
    else transport.bar.querySelector(".play").focus();
  }

  next(ratings) {
    const { card } = this.trials[this.index];
    const common = { test: this.kind, session: this.session, folder: card.article.dataset.folder, clip: card.article.dataset.clip, trial: this.index + 1 };
    const complete = ratings.map((rating) => ({ ...common, ...rating }));
    this.results.push(...complete);
    Ratings.add(complete);
    this.index += 1;
    if (this.index < this.trials.length) this.show();
    else this.finish();
  }

  finish() {
    this.deck.drop();
    test = null;
    document.getElementById("room-title").textContent = `${this.title}: done`;
    const foot = element("div", { className: "room-foot" },
      element("button", { type: "button", className: "primary", textContent: "Export CSV", onclick: exportCsv }),
      element("button", { type: "button", textContent: "Back to the page", onclick: () => room.close() }));
    roomBody.replaceChildren(...tablesOf(this.results), ...this.remarks(), foot);
    foot.querySelector("button").focus();
  }

  listenButton(index, text) {
    const button = element("button", { type: "button", textContent: text, onclick: () => this.deck.select(index) });
    this.buttons[index] = button;
    return button;
  }
}

class Mushra extends Test {
  kind = "mushra";

  takes() {
    const { card, systems } = this.trials[this.index];
    const reference = card.takes[0];
    const hidden = { ...reference, name: HIDDEN_REFERENCE };
    const anchor = { ...takeOf(card.article.querySelector(".low-anchor")), name: LOW_ANCHOR };
    const others = card.takes.filter((take) => systems.includes(take.name));
    this.stimuli = shuffled([hidden, anchor, ...others]);
    this.scores = this.stimuli.map(() => null);
    return [reference, ...this.stimuli];
  }

  build() {
    const scale = ["bad", "poor", "fair", "good", "excellent"].map((text) => element("span", { textContent: text }));
    const legend = element("div", { className: "scale legend" }, element("span"), element("div", {}, ...scale), element("span"));
    legend.setAttribute("aria-hidden", true);
    const reference = element("p", {}, this.listenButton(0, "Reference"));
    this.nextButton = element("button", { type: "button", className: "primary", textContent: "Next clip", disabled: true, onclick: () => this.submit() });
    if (this.index === this.trials.length - 1) this.nextButton.textContent = "Finish";
    this.left = element("p");
    this.left.setAttribute("aria-live", "polite");
    this.sliders = [];
    const rows = this.stimuli.map((_, index) => this.row(index));
    const hint = element("p", { className: "hint", textContent: "Keys: Space plays, R is the reference, 1 to 9 the versions; then the arrows set the score. Enter goes on. At least one version is the reference itself." });
    this.count();
    return [reference, legend, ...rows, element("div", { className: "room-foot" }, this.nextButton, this.left), hint];
  }

  row(index) {
    const output = element("output", { textContent: "-" });
    const slider = element("input", { type: "range", min: 0, max: 100, step: 1, value: 50 });
    slider.setAttribute("aria-label", `Score of version ${index + 1}`);
    const rate = () => {
      this.scores[index] = Number(slider.value);
      output.textContent = slider.value;
      line.className = "scale rated";
      this.count();
    };
    slider.oninput = rate;
    slider.onchange = rate;
    slider.onpointerup = rate; // 50 is a score too
    slider.onfocus = () => this.deck.heard !== index + 1 && this.deck.select(index + 1);
    this.sliders[index] = slider;
    const line = element("div", { className: "scale" }, this.listenButton(index + 1, index + 1), slider, output);
    return line;
  }

  count() {
    const n = this.scores.filter((score) => score === null).length;
    this.nextButton.disabled = n > 0;
    this.left.textContent = n ? `${n} still to rate` : "";
  }

  submit() {
    if (this.nextButton.disabled) return;
    this.next(this.stimuli.map((take, index) => ({ position: index + 1, system: take.name, score: this.scores[index] })));
  }

  remarks() {
    const hidden = this.results.filter((rating) => rating.system === HIDDEN_REFERENCE);
    const nLow = hidden.filter((rating) => rating.score < 90).length;
    const text = `The hidden reference got less than 90 in ${nLow} of ${hidden.length} clips; ITU-R BS.1534 leaves a listener out if that is more than 15 %.`;
    return [element("p", { textContent: text })];
  }

  onKey(event) {
    if (event.key === "r" || event.key === "0") return () => this.deck.select(0);
    if (event.key === "Enter") return () => this.submit();
    const slider = /^[1-9]$/.test(event.key) && this.sliders[Number(event.key) - 1];
    return slider ? () => slider.focus() || this.deck.select(Number(event.key)) : null;
  }
}

class Abx extends Test {
  kind = "abx";

  takes() {
    const { card, a, b } = this.trials[this.index];
    const pair = [a, b].map((name) => card.takes.find((take) => take.name === name));
    this.xIsA = crypto.getRandomValues(new Uint8Array(1))[0] < 128;
    return [...pair, this.xIsA ? pair[0] : pair[1]];
  }

  build() {
    const listen = ["A", "B", "X"].map((text, index) => this.listenButton(index, text));
    const answers = ["A", "B"].map((text) => element("button", { type: "button", textContent: `X is ${text}`, onclick: () => this.answer(text) }));
    const hint = element("p", { className: "hint", textContent: "Keys: Space plays, A, B and X choose what you hear; Shift+A and Shift+B answer." });
    return [element("div", { className: "abx" }, ...listen), element("div", { className: "answers" }, ...answers), hint];
  }

  answer(text) {
    const { a, b } = this.trials[this.index];
    const x = this.xIsA ? "A" : "B";
    this.next([{ a, b, x, answer: text, is_right: Number(text === x) }]);
  }

  remarks() {
    const text = "The last column is the probability that guessing alone does as well or better: below 5 %, the difference is probably heard.";
    return [element("p", { textContent: text })];
  }

  onKey(event) {
    const letter = event.key.toUpperCase();
    if (event.shiftKey) return letter === "A" || letter === "B" ? () => this.answer(letter) : null;
    const index = ["A", "B", "X"].indexOf(letter);
    return index >= 0 ? () => this.deck.select(index) : null;
  }
}

function setUpTests() {
  const names = systemNames();
  const boxes = names.map((name) => element("label", {}, element("input", { type: "checkbox", name: "system", value: name, checked: true }), name));
  document.querySelector("#mushra-setup .system-list").append(...boxes);
  const original = cards[0]?.takes[0].name;
  const [a, b] = ["a", "b"].map((name) => document.querySelector(`#abx-setup [name=${name}]`));
  for (const select of [a, b]) select.append(...[original, ...names].filter(Boolean).map((name) => element("option", { value: name, textContent: name })));
  b.selectedIndex = Math.min(cards[0]?.shown ?? 0, names.length);
  checkPair();
}

document.getElementById("mushra-setup").onsubmit = (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const systems = form.getAll("system");
  const trials = shuffled(cards).slice(0, Number(form.get("clips"))).map((card) => ({ card, systems }));
  if (trials.length) new Mushra("Rating", trials).open();
};

document.getElementById("abx-setup").onsubmit = (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const [a, b] = [form.get("a"), form.get("b")];
  const usable = cards.filter((card) => [a, b].every((name) => card.takes.some((take) => take.name === name)));
  const trials = [];
  while (usable.length && trials.length < Number(form.get("trials"))) trials.push(...shuffled(usable).map((card) => ({ card, a, b })));
  if (usable.length) new Abx("ABX", trials.slice(0, Number(form.get("trials")))).open();
};

// A form that could not start a test says so when it is sent.
function checkPair() {
  const form = document.getElementById("abx-setup");
  const [a, b] = [form.a.value, form.b.value];
  const isCommon = cards.some((card) => [a, b].every((name) => card.takes.some((take) => take.name === name)));
  const problem = a === b ? "Choose two different versions." : isCommon ? "" : "No clip has both versions.";
  form.b.setCustomValidity(problem);
}
document.getElementById("abx-setup").onchange = checkPair;

document.getElementById("leave").onclick = () => room.close();
room.onclose = () => {
  test?.deck.drop();
  test = null;
};

function onBlindKey(event) {
  if (!test) return;
  const common = { " ": () => test.deck.toggle(), l: () => test.deck.setLoop(!test.deck.isLooping) };
  if (event.key === "Enter" && keepsSpace(event.target)) return;
  const action = common[event.key] ?? test.onKey(event);
  if (!action) return;
  event.preventDefault();
  action();
}

let isSpaceTaken = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  if (event.key === " " && keepsSpace(event.target)) return;
  if (room.open) onBlindKey(event);
  else onListenKey(event);
  isSpaceTaken = event.key === " " && event.defaultPrevented;
});
document.addEventListener("keyup", (event) => {
  if (event.key === " " && isSpaceTaken) event.preventDefault(); // some browsers press buttons only now
});

setUpTests();
