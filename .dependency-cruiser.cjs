// The dependency rule of ARCHITECTURE.md. A folder may import what stands in its row, and itself; nothing else of src/.
// Type imports count. Read by tools/check-dependencies.mjs.

/** Folder → the folders (or files) of src/ it may import. */
const LAYERS = {
  "errors.ts": [],
  tensor: ["errors.ts"],
  random: ["errors.ts"],
  ops: ["errors.ts", "tensor", "random"],
  formats: ["errors.ts", "tensor"],
  tokenizer: ["errors.ts", "formats"],
  data: ["errors.ts", "formats", "tokenizer", "random"],
  backends: ["errors.ts", "tensor", "ops"],
  quant: ["errors.ts", "tensor", "ops", "formats", "random", "model", "backends/backend.ts"],
  model: ["errors.ts", "tensor", "ops", "formats", "random", "quant", "data/batch.ts", "backends/backend.ts"],
  adapter: ["errors.ts", "tensor", "ops", "formats", "random", "model", "backends/backend.ts"],
};
const CORE = ["errors.ts", "tensor", "ops", "formats", "random", "tokenizer", "data", "quant", "model", "adapter"];
Object.assign(LAYERS, {
  train: [...CORE, "eval", "backends/backend.ts"],
  eval: [...CORE, "serve", "backends/backend.ts"],
  serve: [...CORE, "backends/backend.ts"],
  report: [...CORE, "train", "eval"],
  verbs: [...CORE, "backends", "train", "eval", "serve", "report"],
  cli: [...CORE, "backends", "train", "eval", "serve", "report", "verbs"],
  "index.ts": [...CORE, "backends", "train", "eval", "serve", "report", "verbs"],
});

/** Imports outside the rule, each with its reason. */
const EXCEPTIONS = [
  // The manifest writes the run's settings beside the adapter; train/config.ts holds types and nothing that runs.
  { folder: "adapter", from: "^src/adapter/manifest\\.ts$", to: "^src/train/config\\.ts$" },
];

/** Folders that run in a browser too: files, network and clocks are passed in. */
const NO_NODE = ["tensor", "ops", "quant", "model", "adapter", "tokenizer", "data", "random", "train", "eval", "serve"];
const CONCRETE_BACKENDS = "^src/backends/(reference|cpu|cuda|webgpu)/";

const pattern = (name) => `^src/${name.replaceAll(".", "\\.")}${name.endsWith(".ts") ? "$" : "/"}`;

const layerRules = Object.entries(LAYERS).map(([folder, allowed]) => ({
  name: `layer-${folder}`,
  severity: "error",
  comment: `${folder} may import ${allowed.join(", ") || "nothing"} and itself`,
  from: { path: pattern(folder), pathNot: EXCEPTIONS.map((exception) => exception.from) },
  to: { path: "^src/", pathNot: [pattern(folder), ...allowed.map(pattern)] },
}));

const exceptionRules = EXCEPTIONS.map(({ folder, from, to }, index) => ({
  name: `exception-${index + 1}`,
  severity: "error",
  comment: `otherwise this file keeps to the rule of ${folder}`,
  from: { path: from },
  to: { path: "^src/", pathNot: [to, pattern(folder), ...LAYERS[folder].map(pattern)] },
}));

module.exports = {
  layers: LAYERS,
  forbidden: [
    ...layerRules,
    ...exceptionRules,
    { name: "no-cycles", severity: "error", from: { path: "^src/" }, to: { circular: true } },
    {
      name: "only-open-names-backends",
      severity: "error",
      comment: "a concrete backend is reached through backends/open.ts",
      from: { path: "^src/", pathNot: [CONCRETE_BACKENDS, "^src/backends/open\\.ts$"] },
      to: { path: CONCRETE_BACKENDS },
    },
    {
      name: "backends-are-strangers",
      severity: "error",
      from: { path: "^src/backends/([^/]+)/" },
      to: { path: "^src/backends/[^/]+/", pathNot: "^src/backends/$1/" },
    },
    {
      name: "no-node-in-the-core",
      severity: "error",
      comment: "these folders run in a browser: files and network are passed in",
      from: { path: `^src/(${[...NO_NODE, "backends/reference", "backends/webgpu"].join("|")})/` },
      to: { dependencyTypes: ["core"] },
    },
    { name: "nothing-unresolved", severity: "error", from: { path: "^src/" }, to: { couldNotResolve: true } },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "types", "node", "default"] },
  },
};
