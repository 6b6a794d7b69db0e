// Any LoRA as a nested adapter: each linear's update s·B·A is decomposed, and row i of A and Bᵀ becomes its i-th singular
// direction times √σ_i. The first b rows are then the best approximation of rank b that there is (Eckart & Young), and all
// rows together are the LoRA itself. That holds for a scale that does not depend on the rank: the scale is in the rows.

import { QdlError } from "../errors.ts";
import type { OpenPeftAdapter, StoredPeftModule } from "../formats/peft.ts";
import { breathe } from "../model/breathe.ts";
import type { LinearName, ModelConfig } from "../model/config.ts";
import { linearAt } from "../model/families/index.ts";
import { svdOfProduct } from "./svd.ts";

export interface NestedModule {
  readonly layer: number;
  readonly linear: LinearName;
  readonly rank: number;
  /** Singular values of s·B·A, [r], descending. */
  readonly sigma: Float64Array;
  /** f32 [r, K] */
  readonly a: Float32Array;
  /** f32 [r, M] */
  readonly bTransposed: Float32Array;
}

/**
 * The modules one by one, so that the largest alone is in memory.
 * Throws ADAPTER_INVALID (a module that the model does not have, or of another shape), TENSOR_NONFINITE.
 */
export async function* nestedModules(peft: OpenPeftAdapter, model: ModelConfig): AsyncGenerator<NestedModule> {
  for (const module of peft.modules) {
    const place = placeOf(module, model);
    const { sigma, left, right } = svdOfProduct(await module.a(), await module.bTransposed(), module.rank);
    const scaled = sigma.map((value) => value * Math.abs(module.scale));
    const a = spread(right, scaled, 1);
    yield { ...place, rank: module.rank, sigma: scaled, a, bTransposed: spread(left, scaled, Math.sign(module.scale)) };
    await breathe();
  }
}

/** Checks every module against the model, and returns their linears. Throws ADAPTER_INVALID. */
export function adaptedLinears(peft: OpenPeftAdapter, model: ModelConfig): LinearName[] {
  const found = new Set(peft.modules.map((module) => placeOf(module, model).linear));
  return model.block.linears.map(({ name }) => name).filter((name) => found.has(name));
}

export const largestRank = ({ modules }: OpenPeftAdapter): number => Math.max(...modules.map(({ rank }) => rank));

function placeOf({ path, in: cols, out: rows }: StoredPeftModule, model: ModelConfig) {
  const place = linearAt(model.family, path);
  const linear = model.block.linears.find(({ name }) => name === place?.linear);
  if (!place || !linear || place.layer >= model.layers)
    throw refused(path, `is no linear of a block of this model, expected one of its ${model.layers} layers`);
  if (linear.in !== cols || linear.out !== rows)
    throw refused(path, `is ${rows}×${cols}, expected ${linear.out}×${linear.in} because of the model's shape`);
  return place;
}

function refused(path: string, reason: string): QdlError {
  return new QdlError("ADAPTER_INVALID", `adapter module ${path} ${reason}`, {
    hint: "Use it with the model it was trained on; adapters of embeddings and heads are not supported.",
    details: { module: path },
  });
}

/** Row i times √σ_i. */
function spread(rows: Float64Array, sigma: Float64Array, sign: number): Float32Array {
  const n = rows.length / sigma.length;
  return Float32Array.from(rows, (value, at) => sign * value * Math.sqrt(sigma[Math.floor(at / n)]!));
}

/** Sums of squared singular values over modules: what is lost when all are cut to a rank. */
export class Spectrum {
  readonly #squares: number[] = [];

  add({ sigma }: Pick<NestedModule, "sigma">): void {
    sigma.forEach((value, i) => {
      this.#squares[i] = (this.#squares[i] ?? 0) + value * value;
    });
  }

  /** ‖ΔW − ΔW at rank b‖ / ‖ΔW‖ over all modules together; 0 of a LoRA that is zero. */
  relativeError(rank: number): number {
    const sum = (from: number) => this.#squares.slice(from).reduce((a, b) => a + b, 0);
    const all = sum(0);
    return all === 0 ? 0 : Math.sqrt(sum(rank) / all);
  }
}
