// The report as one self-contained page: no script, no network, everything escaped.

import { type Estimate, HIGHER_IS_BETTER, tokensOf } from "../eval/task-metrics.ts";
import { lossChart, rankLegend } from "./loss-chart.ts";
import { type Child, type Element, h, render } from "./markup.ts";
import { PAGE_STYLE } from "./page-style.ts";
import { LOSS_SERIES, metricSeries, rankChart } from "./rank-chart.ts";
import { bestRank, METRIC_LABELS, percent, type Report, type ReportRank, type ReportSample } from "./report.ts";

/** The page as HTML. */
export function reportHtml(report: Report): string {
  const page = h(
    "html",
    { lang: "en" },
    h(
      "head",
      {},
      h("meta", { charset: "utf-8" }),
      h("meta", { name: "viewport", content: "width=device-width, initial-scale=1" }),
      h("meta", { name: "generator", content: "qdylora" }),
      h("title", {}, report.title),
      h("style", {}, PAGE_STYLE),
    ),
    h(
      "body",
      {},
      h(
        "main",
        {},
        h("h1", {}, report.title),
        h("p", { class: "lead" }, report.summary),
        facts(report),
        charts(report),
        rankTable(report),
        answers(report),
        plainTable("Provenance", report.provenance),
      ),
    ),
  );
  return `<!doctype html>\n${render(page)}\n`;
}

function facts(report: Report): Child {
  const best = bestRank(report);
  const base = report.ranks.find(({ rank }) => rank === 0);
  const smallest = report.ranks.find(({ rank }) => rank > 0);
  const largest = report.ranks.at(-1);
  if (!best || !base || !smallest || !largest) return null;
  const { metricName } = report;
  const label = metricName ? METRIC_LABELS[metricName] : "Held-out loss";
  const value = (rank: ReportRank): string => (rank.metric ? percent(rank.metric.value) : rank.loss.value.toFixed(3));
  return h(
    "dl",
    { class: "facts" },
    fact(`${label}, base`, value(base), rangeText(base)),
    fact(`${label}, rank ${best.rank} (best)`, value(best), rangeText(best)),
    fact(`${label}, rank ${smallest.rank} (smallest)`, value(smallest), rangeText(smallest)),
    fact(
      "Adapter size",
      bytesText(smallest.adapterBytes),
      `at rank ${smallest.rank}; ${bytesText(largest.adapterBytes)} at rank ${largest.rank}`,
    ),
  );
}

const fact = (term: string, value: string, note: string): Element =>
  h("div", {}, h("dt", {}, term), h("dd", {}, value, h("small", {}, note)));

function rangeText({ metric, loss }: ReportRank): string {
  return metric
    ? `95 % interval ${percent(metric.low)} to ${percent(metric.high)}`
    : `95 % interval ${loss.low.toFixed(3)} to ${loss.high.toFixed(3)}`;
}

function charts(report: Report): Child {
  const { metricName } = report;
  const title = metricName
    ? `${METRIC_LABELS[metricName]} by rank (${HIGHER_IS_BETTER[metricName] ? "higher" : "lower"} is better)`
    : "";
  const metric = metricName ? rankChart(metricSeries(title), report.ranks) : null;
  const loss = rankChart(LOSS_SERIES, report.ranks);
  const training = lossChart(report.steps);
  const card = (heading: string, ...content: Child[]): Element => h("section", {}, h("h2", {}, heading), ...content);
  return [
    h("div", { class: "grid2" }, metric ? card(title, metric) : null, loss ? card(LOSS_SERIES.title, loss) : null),
    h(
      "div",
      { class: "grid2" },
      training
        ? h("section", { id: "loss" }, h("h2", {}, "Training loss by step"), training, rankLegend(report.steps))
        : null,
      plainTable("Settings", report.settings),
    ),
  ];
}

function rankTable(report: Report): Child {
  const best = bestRank(report);
  const label = report.metricName ? METRIC_LABELS[report.metricName] : null;
  const caption = `${report.heldOut.samples} held-out samples, ${report.heldOut.tokens} supervised tokens; 95 % bootstrap intervals over samples.`;
  return h(
    "section",
    {},
    h("h2", {}, "Every rank of the one adapter"),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Scores by rank" },
      h(
        "table",
        {},
        h("caption", {}, caption),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["Rank", "Loss", ...(label ? [label] : []), "Adapter size"].map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h(
          "tbody",
          {},
          report.ranks.map((rank) => rankRow(rank, label !== null, rank === best)),
        ),
      ),
    ),
    report.ranks.some(({ rank, trained }) => rank > 0 && !trained)
      ? h("p", { class: "legend" }, "* not drawn in training")
      : null,
  );
}

function rankRow(rank: ReportRank, hasMetric: boolean, best: boolean): Element {
  const cell = (estimate: Estimate | null, show: (value: number) => string): Element =>
    h(
      "td",
      {},
      estimate ? [show(estimate.value), h("small", {}, `${show(estimate.low)} – ${show(estimate.high)}`)] : "",
    );
  return h(
    "tr",
    { class: best ? "best" : null },
    h(
      "th",
      { scope: "row" },
      `${rank.rank === 0 ? "base" : rank.rank}${rank.rank > 0 && !rank.trained ? " *" : ""}${best ? " (best)" : ""}`,
    ),
    cell(rank.loss, (value) => value.toFixed(3)),
    hasMetric ? cell(rank.metric, percent) : null,
    h("td", {}, rank.rank === 0 ? "–" : bytesText(rank.adapterBytes)),
  );
}

function answers({ samples }: Report): Child {
  const [first] = samples;
  if (!first) return null;
  const columns = ["Prompt", "Expected", ...first.answers.map(({ rank }) => (rank === 0 ? "Base" : `Rank ${rank}`))];
  return h(
    "section",
    {},
    h("h2", {}, "Answers to held-out prompts"),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Sample answers" },
      h(
        "table",
        { class: "answers" },
        h("caption", {}, "Greedy decoding; ✓ marks an answer equal to the expected one."),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            columns.map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h("tbody", {}, samples.map(answerRow)),
      ),
    ),
  );
}

function answerRow(sample: ReportSample): Element {
  const expected = tokensOf(sample.reference).join(" ");
  const answer = (text: string): Child =>
    tokensOf(text).join(" ") === expected
      ? [h("span", { class: "ok", title: "equal to the expected answer" }, "✓ "), text.trim()]
      : text.trim();
  return h(
    "tr",
    {},
    h("td", {}, sample.prompt),
    h("td", {}, sample.reference.trim()),
    sample.answers.map(({ text }) => h("td", {}, answer(text))),
  );
}

const plainTable = (heading: string, rows: Readonly<Record<string, string>>): Element =>
  h(
    "section",
    {},
    h("h2", {}, heading),
    h(
      "table",
      { class: "plain" },
      h(
        "tbody",
        {},
        Object.entries(rows).map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value))),
      ),
    ),
  );

function bytesText(bytes: number): string {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(2)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
