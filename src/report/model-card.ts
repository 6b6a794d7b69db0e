// The README.md beside an export: what it is, how good it is at each rank, how to load it.

import type { AdapterManifest } from "../adapter/manifest.ts";

export interface ModelCard {
  /** Folder's last name, which the card has for a title. */
  readonly name: string;
  readonly rank: number;
  /** Largest rank of the adapter that was cut. */
  readonly rankMax: number;
  readonly manifest: AdapterManifest;
  /** `library_name` and further tags for the hub. */
  readonly library: "peft" | "transformers" | "gguf";
  /** One sentence: what the folder holds. */
  readonly holds: string;
  /** How to load it: a heading and a code block each. */
  readonly uses: readonly { readonly tool: string; readonly language: string; readonly code: string }[];
}

/** Markdown with the hub's front matter. Names go in as they are: they come from folders and hub ids, and hold no markup. */
export function modelCard({ name, rank, rankMax, manifest, library, holds, uses }: ModelCard): string {
  const { base } = manifest;
  const isHubId = base.name.includes("/");
  const front = [
    "---",
    `library_name: ${library}`,
    ...(isHubId ? [`base_model: ${base.name}`] : []),
    "pipeline_tag: text-generation",
    "tags:",
    ...["qdylora", "lora", ...(library === "transformers" ? [] : ["adapter"])].map((tag) => `  - ${tag}`),
    "---",
  ];
  const revision = base.revision ? ` at revision ${base.revision}` : "";
  return [
    ...front,
    "",
    `# ${name}`,
    "",
    `${holds} It is rank ${rank} of an adapter of ranks 1 to ${rankMax}, made by qdylora ${manifest.provenance.qdylora} over ${base.name}${revision}, held in ${base.format}${base.doubleQuant ? " with double quantisation" : ""} while training.`,
    "",
    ...qualityTable(manifest, rank),
    "## How to load it",
    "",
    ...uses.flatMap(({ tool, language, code }) => [`### ${tool}`, "", `\`\`\`${language}`, code, "```", ""]),
  ].join("\n");
}

function qualityTable({ scores, metricName, updateErrors }: AdapterManifest, rank: number): string[] {
  const losses = scores.map((score) => [
    score.rank,
    score.loss.toFixed(4),
    ...(metricName ? [score.metric?.toFixed(4) ?? ""] : []),
  ]);
  const quality =
    losses.length === 0
      ? ["No held-out data was given when it was made, so its quality is not known.", ""]
      : [
          "## Quality at each rank",
          "",
          "Held-out mean cross-entropy per token, in nats; rank 0 is the base alone.",
          "",
          ...table(["rank", "loss", ...(metricName ? [metricName] : [])], losses, rank),
        ];
  if (!updateErrors) return quality;
  const errors = updateErrors.map((error) => [error.rank, `${(100 * error.relative).toFixed(2)} %`]);
  return [
    ...quality,
    "## Distance from the LoRA that it was made of",
    "",
    "Norm of what a rank misses of the whole update, as a share of the update's norm.",
    "",
    ...table(["rank", "missed"], errors, rank),
  ];
}

/** The row of this export's rank is in bold. */
function table(header: readonly string[], rows: readonly (readonly (string | number)[])[], rank: number): string[] {
  const line = (cells: readonly (string | number)[]): string => `| ${cells.join(" | ")} |`;
  return [
    line(header),
    line(header.map(() => "---")),
    ...rows.map((cells) => line(cells[0] === rank ? cells.map((cell) => `**${cell}**`) : cells)),
    "",
  ];
}
