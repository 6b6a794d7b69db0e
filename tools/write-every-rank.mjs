// Writes docs/every-rank.md from the scores of the quickstart's adapter at every rank:
//
//   npx qdylora quickstart
//   npx qdylora eval qdylora-quickstart --data assets/data/heldout.jsonl --metric error-rate --ranks $(seq -s, 1 32) --json > scores.json
//   node tools/write-every-rank.mjs scores.json

import { readFileSync, writeFileSync } from "node:fs";

const DRAWN = [1, 2, 4, 8, 16, 32];
const { ranks } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const lossAt = new Map(ranks.map(({ rank, loss }) => [rank, loss]));

/** Loss of an undrawn rank minus that of the worse of its drawn neighbours; null for the base and for drawn ranks. */
function margin(rank) {
  if (rank === 0 || DRAWN.includes(rank)) return null;
  const below = Math.max(...DRAWN.filter((drawn) => drawn < rank));
  const above = Math.min(...DRAWN.filter((drawn) => drawn > rank));
  return lossAt.get(rank) - Math.max(lossAt.get(below), lossAt.get(above));
}

const nats = (value) => value.toFixed(3);
const signed = (value) => `${value <= 0 ? "−" : "+"}${nats(Math.abs(value))}`;
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const interval = (value, [low, high], show) => `${show(value)} (${show(low)} – ${show(high)})`;

const rows = ranks.map(({ rank, loss, lossInterval, metric, metricInterval }) => {
  const off = margin(rank);
  const cells = [
    rank || "base",
    DRAWN.includes(rank) ? "yes" : "",
    interval(loss, lossInterval, nats),
    interval(metric, metricInterval, percent),
    off === null ? "" : signed(off),
  ];
  return `| ${cells.join(" | ")} |`;
});
const worst = ranks
  .map(({ rank }) => ({ rank, off: margin(rank) }))
  .filter(({ off }) => off !== null)
  .sort((a, b) => b.off - a.off)[0];

const page = `# Every rank of the quickstart's adapter

The adapter of \`npx qdylora quickstart\` (seed 1; R = 32; ranks 1, 2, 4, 8, 16, 32 drawn with equal probability), measured at all 32 ranks on
the held-out words. \`tools/write-every-rank.mjs\` says how this page is made.

Loss in nats a token and phoneme error rate of greedy answers, with 95 % bootstrap intervals over words. The last column is, for a rank that was not
drawn in training, its loss minus that of the worse of the two drawn ranks around it. The largest is ${signed(worst.off)} (rank ${worst.rank}); a test asks for
at most +0.020.

| rank | drawn | loss | phoneme error rate | loss − worse neighbour |
| --- | --- | --- | --- | --- |
${rows.join("\n")}
`;
writeFileSync(new URL("../docs/every-rank.md", import.meta.url), page);
