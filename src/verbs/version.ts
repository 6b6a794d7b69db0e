// The version of this package, from its package.json.

import { readFileSync } from "node:fs";

const packageJson = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

/** Such as "0.1.0". */
export const version: string = packageJson.version;
