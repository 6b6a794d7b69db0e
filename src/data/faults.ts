import { QdlError } from "../errors.ts";
import { type Fault, ROW_SHAPES } from "./rows.ts";

/** Broken rows that an error lists one by one. */
const LISTED = 10;
/** Broken rows that are kept with their reasons; further ones are only counted. */
const KEPT = 1000;

/** The broken rows of a data set: all counted, the first kept. */
export class FaultLog {
  readonly rows: Fault[] = [];
  count = 0;

  add(fault: Fault): void {
    if (this.count < KEPT) this.rows.push(fault);
    this.count++;
  }

  /** One DATA_ROW_INVALID error for all of them. */
  error(): QdlError {
    const first = this.rows[0]!;
    const listed = this.rows.slice(0, LISTED);
    const more = this.count > listed.length ? `\n  and ${this.count - listed.length} more` : "";
    const lines = listed.map((fault) => `\n  ${place(fault)}: ${fault.reason}`).join("");
    const many = this.count === 1 ? "1 row is" : `${this.count} rows are`;
    return new QdlError(
      "DATA_ROW_INVALID",
      `data: ${many} broken, expected ${ROW_SHAPES} on each line:${lines}${more}`,
      {
        hint: "Mend the lines, or leave them out with --skip-bad-rows.",
        details: { ...first, count: this.count, rows: listed },
      },
    );
  }
}

/** file:line or file:line:column. */
export function place(fault: Pick<Fault, "file" | "line" | "column">): string {
  return [fault.file, fault.line, fault.column ?? []].flat().join(":");
}
