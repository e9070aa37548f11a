// The open listening part: one card per clip, one of them current for the keys.

const STEP_S = 0.5;
const DRAG_SHARE = 0.015; // of the width; less is a click

class Card {
  constructor(article) {
    this.article = article;
    this.seconds = Number(article.dataset.seconds);
    this.takes = [...article.querySelectorAll(".take audio")].map(takeOf);
    this.deck = new Deck(this.takes, Number(article.dataset.rate), this.seconds, () => this.draw());
    this.rows = [...article.querySelectorAll("tr[data-take]")];
    this.figures = [...article.querySelectorAll(".take")];
    this.before = 0; // the take heard before this one
    this.find(".transport").hidden = false;
    this.wireTransport();
    this.rows.forEach((row, index) => this.wireRow(row, index));
    article.querySelectorAll(".stage .time").forEach((time) => this.wireTime(time));
    article.addEventListener("pointerdown", () => Card.choose(this), true);
    const ours = this.rows.findLastIndex((row) => row.classList.contains("ours"));
    this.shown = ours > 0 ? ours : this.takes.length - 1;
    this.draw();
  }

  static choose(card) {
    if (Card.current === card) return;
    Card.current?.article.classList.remove("current");
    Card.current = card;
    card.article.classList.add("current");
  }

  find(selector) {
    return this.article.querySelector(selector);
  }

  wireTransport() {
    this.find(".play").onclick = () => this.toggle();
    this.find(".loop").onclick = () => this.toggleLoop();
    this.find(".swap").onclick = () => this.select(this.before);
    this.find(".position").oninput = (event) => this.deck.seek((event.target.value / 1000) * this.seconds);
  }

  wireRow(row, index) {
    const head = row.querySelector("th");
    const key = index <= 9 ? [element("kbd", { textContent: index })] : [];
    const button = element("button", { type: "button" }, ...key, head.textContent);
    button.onclick = () => this.select(index);
    head.replaceChildren(button);
  }

  wireTime(time) {
    let from = null;
    const share = (event) => {
      const box = time.getBoundingClientRect();
      return Math.min(Math.max(0, (event.clientX - box.left) / box.width), 1);
    };
    time.onpointerdown = (event) => {
      from = share(event);
      time.setPointerCapture(event.pointerId);
    };
    const endsAt = (event) => [from, share(event)].sort((a, b) => a - b);
    time.onpointermove = (event) => {
      if (from !== null) this.drawPart(endsAt(event));
    };
    time.onpointercancel = () => {
      from = null;
      this.draw();
    };
    time.onpointerup = (event) => {
      if (from === null) return;
      const ends = endsAt(event);
      from = null;
      if (ends[1] - ends[0] > DRAG_SHARE) this.deck.setLoop(true, ends.map((end) => end * this.seconds));
      else this.deck.seek(ends[1] * this.seconds);
      this.draw();
    };
  }

  toggle() {
    Card.choose(this);
    return this.deck.toggle();
  }

  toggleLoop() {
    this.deck.setLoop(!this.deck.isLooping);
  }

  select(index) {
    if (index >= this.takes.length) return;
    Card.choose(this);
    if (index !== this.deck.heard) this.before = this.deck.heard;
    if (index > 0) this.shown = index;
    this.deck.select(index);
  }

  draw() {
    const { deck, article } = this;
    const play = this.find(".play");
    play.textContent = deck.isLoading ? "Loading" : deck.isPlaying ? "Pause" : "Play";
    this.find(".loop").setAttribute("aria-pressed", deck.isLooping);
    this.rows.forEach((row, index) => {
      row.classList.toggle("heard", index === deck.heard);
      row.querySelector("button").setAttribute("aria-pressed", index === deck.heard);
    });
    this.figures.forEach((figure, index) => {
      figure.classList.toggle("shown", index === this.shown);
      figure.querySelector("figcaption").dataset.note = index === deck.heard ? "you hear this" : "";
    });
    this.drawPart(deck.part?.map((end) => end / this.seconds));
    this.drawPosition();
    if (deck.isPlaying && !this.isFollowed) {
      this.isFollowed = true;
      follow(deck, () => {
        this.isFollowed = deck.isPlaying;
        this.drawPosition();
      });
    }
  }

  // ends: shares of the width; none without a part.
  drawPart(ends) {
    this.article.classList.toggle("marked", Boolean(ends));
    ends?.forEach((end, index) => this.article.style.setProperty(["--from", "--to"][index], end));
  }

  drawPosition() {
    const position = this.deck.position;
    this.article.classList.toggle("used", position > 0 || this.deck.isPlaying);
    this.article.style.setProperty("--at", (position / this.seconds).toFixed(4));
    this.find(".position").value = (position / this.seconds) * 1000;
    this.find(".clock").textContent = `${position.toFixed(1)} of ${this.seconds.toFixed(1)} s`;
  }

  get isInView() {
    const box = this.article.getBoundingClientRect();
    return box.bottom > 80 && box.top < innerHeight - 80;
  }
}
Card.current = null;

const cards = [...document.querySelectorAll("article.clip")].map((article) => new Card(article));
const match = document.getElementById("match");
const keysButton = document.getElementById("show-keys");

function showKeys() {
  const keys = document.getElementById("keys");
  keys.hidden = !keys.hidden;
  keysButton.setAttribute("aria-expanded", !keys.hidden);
}

function setMatched(isMatched) {
  match.checked = Sound.isMatched = isMatched;
  Sound.playing?.applyGains();
}

keysButton.onclick = showKeys;
match.onchange = () => setMatched(match.checked);
setMatched(match.checked);

// The clip that keys mean: the one used last while it can be seen, else the first that can.
function cardForKeys() {
  if (Card.current && (Card.current.isInView || Card.current.deck.isPlaying)) return Card.current;
  return cards.find((card) => card.isInView) ?? Card.current ?? cards[0];
}

function goTo(card) {
  if (!card) return;
  const wasPlaying = Card.current?.deck.isPlaying;
  Card.current?.deck.pause();
  Card.choose(card);
  card.article.scrollIntoView({ block: "start", behavior: "instant" });
  if (wasPlaying) card.deck.play();
}

const LISTEN_KEYS = {
  " ": (card) => card.toggle(),
  s: (card) => card.select(card.before),
  l: (card) => card.toggleLoop(),
  m: () => setMatched(!Sound.isMatched),
  n: (card) => goTo(cards[cards.indexOf(card) + 1]),
  p: (card) => goTo(cards[cards.indexOf(card) - 1]),
  ArrowLeft: (card) => card.deck.seek(card.deck.position - STEP_S),
  ArrowRight: (card) => card.deck.seek(card.deck.position + STEP_S),
  Home: (card) => card.deck.seek(0),
  "?": showKeys,
};

function onListenKey(event) {
  const isOnSlider = event.target.matches("input[type=range]:focus-visible");
  if (isOnSlider && /^(Arrow|Home|End|Page)/.test(event.key)) return;
  const card = cardForKeys();
  if (!card) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isScrolling = event.key === "Home" && !Card.current;
  const action = /^\d$/.test(key) ? () => card.select(Number(key)) : LISTEN_KEYS[key];
  if (!action || isScrolling) return;
  event.preventDefault();
  action(card);
}
