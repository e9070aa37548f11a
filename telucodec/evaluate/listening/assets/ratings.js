// What listeners said: kept in this browser under the name of this page, exported as CSV.

const CSV_COLUMNS = ["report", "test", "session", "listener", "time_utc", "folder", "clip", "trial", "position", "system", "score", "a", "b", "x", "answer", "is_right"];

const Ratings = {
  key: `telucodec-listening-${document.body.dataset.report}`,
  all: [], // what counts; storage is a copy of it
  isKept: true,

  read() {
    try {
      this.all = JSON.parse(localStorage.getItem(this.key)) ?? [];
    } catch {
      this.isKept = false;
    }
  },

  write() {
    try {
      localStorage.setItem(this.key, JSON.stringify(this.all));
      this.isKept = true;
    } catch {
      this.isKept = false;
    }
    showRatings();
  },

  add(ratings) {
    const common = { report: document.body.dataset.report, listener: document.getElementById("listener").value, time_utc: new Date().toISOString() };
    this.all.push(...ratings.map((rating) => ({ ...common, ...rating })));
    this.write();
  },

  erase() {
    this.all = [];
    this.write();
  },

  toCsv() {
    const quote = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
    const lines = this.all.map((rating) => CSV_COLUMNS.map((name) => quote(rating[name])).join(","));
    return [CSV_COLUMNS.join(","), ...lines, ""].join("\r\n");
  },
};

function exportCsv() {
  const url = URL.createObjectURL(new Blob([Ratings.toCsv()], { type: "text/csv" }));
  const day = new Date().toISOString().slice(0, 10);
  element("a", { href: url, download: `ratings-${document.body.dataset.report}-${day}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// 95 % percentile bootstrap interval over ratings, as in the tables of this page.
function interval(values) {
  if (values.length < 2) return null;
  const draw = () => mean(values.map(() => values[Math.floor(Math.random() * values.length)]));
  const means = Array.from({ length: 2000 }, draw).sort((a, b) => a - b);
  return [means[49], means[1949]];
}

// How likely guessing is right this often or more.
function chance(nRight, n) {
  let term = 0.5 ** n; // of k = 0
  let sum = 0;
  for (let k = 0; k <= n; k++) {
    if (k >= nRight) sum += term;
    term *= (n - k) / (k + 1);
  }
  return Math.min(1, sum);
}

function grouped(ratings, keyOf) {
  const groups = new Map();
  for (const rating of ratings) {
    const key = keyOf(rating);
    groups.set(key, [...(groups.get(key) ?? []), rating]);
  }
  return groups;
}

function scoreTable(ratings) {
  const groups = [...grouped(ratings, (rating) => rating.system)];
  const lines = groups.map(([system, group]) => {
    const scores = group.map((rating) => rating.score);
    const ends = interval(scores);
    return [system, mean(scores).toFixed(1), ends ? `${ends[0].toFixed(1)} to ${ends[1].toFixed(1)}` : "-", scores.length];
  });
  lines.sort((a, b) => b[1] - a[1]);
  return makeTable(["system", "mean score", "95 % interval", "ratings"], lines);
}

function abxTable(ratings) {
  const groups = grouped(ratings, (rating) => [rating.a, rating.b].sort().join(" against "));
  const lines = [...groups].map(([pair, group]) => {
    const nRight = group.filter((rating) => rating.is_right).length;
    return [pair, `${nRight} of ${group.length}`, `${(100 * chance(nRight, group.length)).toFixed(1)} %`];
  });
  return makeTable(["pair", "right", "as good by guessing"], lines);
}

function makeTable(header, lines) {
  const head = element("tr", {}, ...header.map((text) => element("th", { scope: "col", textContent: text })));
  const rows = lines.map(([first, ...rest]) =>
    element("tr", {}, element("th", { scope: "row", textContent: first }), ...rest.map((text) => element("td", { textContent: text }))));
  return element("div", { className: "scroller" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function tablesOf(ratings) {
  const mushra = ratings.filter((rating) => rating.test === "mushra");
  const abx = ratings.filter((rating) => rating.test === "abx");
  return [...(mushra.length ? [scoreTable(mushra)] : []), ...(abx.length ? [abxTable(abx)] : [])];
}

function showRatings() {
  const n = Ratings.all.length;
  const where = Ratings.isKept ? "kept in this browser" : "kept until this page is closed, because the browser refuses storage: export them";
  document.getElementById("stored-text").textContent = n ? `${n} ${n === 1 ? "rating" : "ratings"}, ${where}.` : "No ratings yet.";
  document.getElementById("stored-table").replaceChildren(...tablesOf(Ratings.all));
  for (const id of ["export", "erase"]) document.getElementById(id).disabled = n === 0;
  document.getElementById("erase").textContent = "Delete ratings";
}

document.getElementById("export").onclick = exportCsv;
document.getElementById("erase").onclick = (event) => {
  if (event.target.textContent === "Delete ratings") event.target.textContent = `Really delete ${Ratings.all.length}`;
  else Ratings.erase();
};
Ratings.read();
showRatings();
