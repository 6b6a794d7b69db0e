// A memory plan in words.

import type { TrainEvent } from "../train/events.ts";
import { showBytes } from "./style.ts";

type Start = Extract<TrainEvent, { type: "start" }>;

/** What each layer keeps for its backward; host memory is named only where something waits there. */
export function layersText({ keep, offload, ...rest }: Start["layers"]): string {
  const { "recompute-cheap": cheap, "recompute-layer": whole, "offload-input": fromHost } = rest;
  const always = `${keep} layers keep everything, ${cheap} recompute what is cheap, ${whole} recompute all`;
  return offload + fromHost === 0
    ? always
    : `${always}, ${fromHost} recompute all from an input in host memory, ${offload} keep theirs in host memory`;
}

/** Arena, what does not simply stay there, and moments that are not f32 on the device. */
export function planText({ planBytes, offloadedBytes, optimizerState, layers }: Start): string {
  const total = Object.values(layers).reduce((sum, count) => sum + count, 0);
  return [
    `arena of a step ${showBytes(planBytes)}`,
    ...(layers.keep < total ? [layersText(layers)] : []),
    ...(offloadedBytes > 0 ? [`${showBytes(offloadedBytes)} of activations in host memory`] : []),
    ...(optimizerState === "adam32" ? [] : [`optimizer ${optimizerState}`]),
  ].join("; ");
}
