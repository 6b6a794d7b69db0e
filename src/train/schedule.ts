// The learning rate of a step.

import type { ScheduleConfig } from "./config.ts";

/** Factor on the learning rate at optimizer step `step` (0-based): linear warm-up, then the schedule down to 0 at the end. */
export function scheduleFactor({ kind, warmupSteps, steps }: ScheduleConfig, step: number): number {
  if (step < warmupSteps) return (step + 1) / (warmupSteps + 1);
  if (kind === "constant") return 1;
  const progress = Math.min(1, (step - warmupSteps) / Math.max(1, steps - warmupSteps));
  return kind === "linear" ? 1 - progress : 0.5 * (1 + Math.cos(Math.PI * progress));
}
