// What every measurement on a GPU is filed with: when, under which driver, and of which commit.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** @param root folder of the repository, or one made by pack.mjs, which has no .git but a commit.txt */
export function provenance(root) {
  return { date: new Date().toISOString(), driver: driverVersion(), commit: commit(root) };
}

function driverVersion() {
  const query = ["--query-gpu=driver_version", "--format=csv,noheader"];
  return execFileSync("nvidia-smi", query, { encoding: "utf8" }).trim().split("\n")[0];
}

function commit(root) {
  try {
    return readFileSync(join(root, "commit.txt"), "utf8").trim();
  } catch {
    return execFileSync("git", ["describe", "--always", "--dirty"], { cwd: root, encoding: "utf8" }).trim();
  }
}
