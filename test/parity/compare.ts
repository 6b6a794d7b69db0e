// One fixture on one backend at one rank: how far losses, logits and every adapter gradient are from the stored ones, and
// whether the base holds the very values that the fixture's maker computed.

import { createHash } from "node:crypto";
import { linearPath } from "../../src/model/families/index.ts";
import type { FrozenWeight } from "../../src/ops/frozen-weight.ts";
import { matrix } from "../../src/tensor/tensor.ts";
import { fixtureParameters, fixtureTensor, type ParityCase, rankRows } from "./fixture.ts";
import { type Lab, packed } from "./lab.ts";
import { relativeError, type TensorError, tensorError, worstOf } from "./measure.ts";

export interface Comparison {
  readonly loss: number;
  readonly losses: number;
  /** Decoded token by token through the key/value cache, and in pieces of several tokens. */
  readonly logits: TensorError;
  readonly logitsInPieces: TensorError;
  /** The tensors with the largest errors. */
  readonly gradients: { readonly relative: TensorError; readonly worstRow: TensorError };
  readonly gradientCount: number;
  /** Largest magnitude of gradients in rows ≥ b. */
  readonly outside: number;
}

/** Tokens of a piece: the prompt's path of attention, and a window that ends inside a piece. */
const PIECE = 5;

export async function compareRank(lab: Lab, fixture: ParityCase, rank: number): Promise<Comparison> {
  const expected = (key: string): Float32Array => fixtureTensor(fixture, `rank${rank}.${key}`);
  const { sequences } = fixture;
  const step = await lab.step([packed(sequences)], rank);
  const tensors = fixtureParameters(fixture).map(({ key, name, side }) =>
    tensorError(name, step.gradients.get(name)!, rankRows(expected(`grad.${key}`), side, rank), rank),
  );
  const { loss } = fixture.ranks.find((entry) => entry.rank === rank)!;
  const logits = expected("logits");
  const rows = endsOfPieces(sequences.map(({ tokens }) => tokens.length));
  const { vocabulary } = fixture.config;
  const atEnds = Float32Array.from(
    rows.flatMap((row) => [...logits.subarray(row * vocabulary, (row + 1) * vocabulary)]),
  );
  return {
    loss: Math.abs(step.loss - loss) / loss,
    losses: relativeError(step.losses, expected("losses")),
    logits: tensorError("logits", await lab.logits(sequences, rank, 1), logits, step.losses.length),
    logitsInPieces: tensorError("logits", await lab.logits(sequences, rank, PIECE), atEnds, rows.length),
    gradients: worstOf(tensors),
    gradientCount: tensors.length,
    outside: step.outside,
  };
}

/** Rows, over all sequences laid end to end, after which a piece ends. */
function endsOfPieces(lengths: readonly number[]): number[] {
  let first = 0;
  return lengths.flatMap((length) => {
    const ends: number[] = [];
    for (let from = 0; from < length; from += PIECE) ends.push(first + Math.min(from + PIECE, length) - 1);
    first += length;
    return ends;
  });
}

/** SHA-256 of the f32 values of every linear, by its tensor's name in the checkpoint. */
export async function digestsOf(lab: Lab): Promise<Record<string, string>> {
  const digests: Record<string, string> = {};
  for (const [layer, { linears }] of lab.model.layers.entries())
    for (const [name, { weight }] of Object.entries(linears))
      digests[`${linearPath(lab.model.config.family, layer, name)}.weight`] = await digestOf(lab, weight);
  return digests;
}

/** By the backend's own op. */
async function digestOf({ backend }: Lab, weight: FrozenWeight): Promise<string> {
  const { rows, cols } = weight;
  const buffer = backend.alloc(rows * cols * 4, "dequantised weight");
  try {
    backend.run("dequantize", { weight, y: matrix(buffer, "f32", rows, cols) });
    const bytes = await backend.read(buffer, 0, rows * cols * 4);
    return createHash("sha256").update(bytes).digest("hex");
  } finally {
    buffer.dispose();
  }
}
