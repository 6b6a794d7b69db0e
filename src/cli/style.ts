// Text for terminals: colours where they show, tables, and numbers with units.

import picocolors from "picocolors";

export interface Style {
  bold(text: string): string;
  dim(text: string): string;
  good(text: string): string;
  bad(text: string): string;
  accent(text: string): string;
}

/** Colours if `enabled`, and NO_COLOR is not set. */
export function styleFor(enabled: boolean, env: Readonly<Record<string, string | undefined>>): Style {
  const colors = picocolors.createColors(enabled && !env.NO_COLOR);
  return { bold: colors.bold, dim: colors.dim, good: colors.green, bad: colors.red, accent: colors.cyan };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: the escape character is what starts a colour
const ESCAPES = /\u001b\[\d+m/g;

/** Columns that a text takes on a terminal (colours take none). */
export const widthOf = (text: string): number => [...text.replaceAll(ESCAPES, "")].length;

/** Columns of numbers are right-aligned but for the first; columns of text are left-aligned. */
export function table(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  style: Style,
  align: "left" | "right" = "right",
): string {
  const widths = header.map((cell, i) => Math.max(widthOf(cell), ...rows.map((row) => widthOf(row[i] ?? ""))));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => pad(cell, widths[i] ?? 0, align === "left" || i === 0))
      .join("  ")
      .trimEnd();
  return [style.dim(line(header)), ...rows.map(line)].join("\n");
}

function pad(text: string, width: number, left: boolean): string {
  const space = " ".repeat(Math.max(0, width - widthOf(text)));
  return left ? text + space : space + text;
}

const BINARY_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

/** 1536 → "1.50 KiB". */
export function showBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < BINARY_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return unit === 0 ? `${bytes} B` : `${value.toPrecision(value >= 1000 ? 4 : 3)} ${BINARY_UNITS[unit]}`;
}

/** 3725 → "1:02:05", 65 → "1:05". */
export function showSeconds(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const shown = parts[0] === 0 ? parts.slice(1) : parts;
  return shown.map((part, i) => (i === 0 ? String(part) : String(part).padStart(2, "0"))).join(":");
}
