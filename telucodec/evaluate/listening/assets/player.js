"use strict";

// The sound of one clip: all its takes run in step, one of them is heard.
//
// Every take has a source and a gain of its own, and all sources start at the same instant of the audio
// clock. Choosing another take only crossfades two gains: no gap, no jump, not a sample out of place.

const FADE_S = 0.008;
const LEAD_S = 0.03; // between the command and the first sample, so that all sources make it

const Sound = {
  context: null,
  isMatched: true,
  decoded: new WeakMap(), // audio element -> promise of its samples
  playing: null, // the deck that sounds

  // Must first be called by a click or a key, or browsers keep it silent.
  wake(rateHz) {
    this.context ??= new AudioContext({ sampleRate: rateHz, latencyHint: "interactive" });
    return this.context.resume();
  },

  samples(audio) {
    if (!this.decoded.has(audio)) {
      const base64 = audio.src.slice(audio.src.indexOf(",") + 1);
      const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
      this.decoded.set(audio, this.context.decodeAudioData(bytes.buffer));
    }
    return this.decoded.get(audio);
  },
};

class Deck {
  // takes: [{audio, gainDb}]; onChange() follows every change of state.
  constructor(takes, rateHz, seconds, onChange) {
    Object.assign(this, { takes, rateHz, seconds, onChange });
    this.heard = 0;
    this.isLooping = false;
    this.part = null; // [from, to] in seconds; null for all
    this.voices = [];
    this.restsAt = 0; // where it stands while nothing sounds
    this.startsAt = 0; // audio clock at which position restsAt sounded
    this.isLoading = false;
    this.isDropped = false;
  }

  get isPlaying() {
    return this.voices.length > 0;
  }

  get span() {
    return this.part ?? [0, this.seconds];
  }

  get position() {
    if (!this.isPlaying) return this.restsAt;
    const raw = this.restsAt + Math.max(0, Sound.context.currentTime - this.startsAt);
    const [from, to] = this.span;
    if (!this.isLooping || raw < to) return Math.min(raw, this.seconds);
    return from + ((raw - from) % (to - from));
  }

  async play() {
    if (this.isPlaying || this.isLoading) return;
    this.isLoading = true;
    this.onChange();
    let buffers;
    try {
      await Sound.wake(this.rateHz);
      buffers = await Promise.all(this.takes.map((take) => Sound.samples(take.audio)));
    } finally {
      this.isLoading = false;
      this.onChange();
    }
    if (this.isDropped) return;
    if (Sound.playing !== this) Sound.playing?.pause();
    Sound.playing = this;
    this.buffers = buffers;
    this.start();
    this.onChange();
  }

  start() {
    const [from, to] = this.span;
    const isOutside = this.restsAt < from || this.restsAt >= to - 0.02;
    const offset = isOutside ? from : this.restsAt;
    const when = Sound.context.currentTime + LEAD_S;
    this.voices = this.buffers.map((buffer, index) => {
      const source = new AudioBufferSourceNode(Sound.context, { buffer, loop: this.isLooping, loopStart: from, loopEnd: to });
      const gain = new GainNode(Sound.context, { gain: this.gainOf(index) });
      source.connect(gain).connect(Sound.context.destination);
      source.start(when, offset);
      return { source, gain };
    });
    this.restsAt = offset;
    this.startsAt = when;
    const voices = this.voices;
    voices[0].source.onended = () => {
      if (this.voices === voices) this.stop(0);
    };
  }

  stop(position) {
    for (const { source, gain } of this.voices) {
      gain.gain.setTargetAtTime(0, Sound.context.currentTime, FADE_S / 3);
      source.stop(Sound.context.currentTime + FADE_S * 2);
    }
    this.voices = [];
    this.restsAt = position;
    this.onChange();
  }

  pause() {
    if (this.isPlaying) this.stop(this.position);
  }

  // For good, even if its sound is still being decoded.
  drop() {
    this.isDropped = true;
    this.pause();
  }

  toggle() {
    return this.isPlaying ? this.pause() : this.play();
  }

  seek(seconds) {
    const wasPlaying = this.isPlaying;
    const place = Math.min(Math.max(0, seconds), this.seconds);
    if (wasPlaying) this.stop(place);
    this.restsAt = place;
    if (wasPlaying) this.start();
    this.onChange();
  }

  // A part is always repeated; without one, all or nothing is.
  setLoop(isLooping, part = null) {
    const place = this.position;
    this.isLooping = isLooping;
    this.part = part;
    this.seek(part && (place < part[0] || place > part[1]) ? part[0] : place);
  }

  select(index) {
    this.heard = index;
    this.applyGains();
    this.onChange();
  }

  gainOf(index) {
    if (index !== this.heard) return 0;
    return Sound.isMatched || this.isAlwaysMatched ? 10 ** (this.takes[index].gainDb / 20) : 1;
  }

  applyGains() {
    if (!this.isPlaying) return;
    const now = Sound.context.currentTime;
    this.voices.forEach(({ gain }, index) => {
      gain.gain.cancelScheduledValues(now);
      gain.gain.setValueAtTime(gain.gain.value, now);
      gain.gain.linearRampToValueAtTime(this.gainOf(index), now + FADE_S);
    });
  }
}

// Calls draw() before every frame while deck sounds; once more when it stops.
function follow(deck, draw) {
  const step = () => {
    draw();
    if (deck.isPlaying) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function takeOf(audio) {
  const holder = audio.closest("[data-gain-db]");
  return { audio, name: holder.dataset.system, gainDb: Number(holder.dataset.gainDb) };
}

const isTyping = (target) => target.matches("input[type=text], input[type=number], select, textarea");
// A control that was reached by the keyboard keeps its own keys; one that was clicked does not.
const keepsSpace = (target) => target.matches("button, summary, a, input[type=checkbox]") && target.matches(":focus-visible");
