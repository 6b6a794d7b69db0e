// Where a text stops being JSON. JSON.parse's own message names a position in some engines and versions only.

const SPACE = /[ \t\n\r]*/y;
const SCALAR =
  /"(?:[ !#-[\]-\uffff]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;

/** The 1-based column of the first character that cannot continue a JSON value; one past the end if it just stops. */
export function jsonErrorColumn(text: string): number {
  let at = 0;
  const skip = (pattern: RegExp): boolean => {
    pattern.lastIndex = at;
    const found = pattern.test(text);
    if (found) at = pattern.lastIndex;
    return found;
  };
  const open: ("}" | "]")[] = [];
  // What may come next: a value; a key (or the end of an object just opened); or what follows a value.
  let expecting: "value" | "first" | "key" | "after" = "value";
  for (;;) {
    skip(SPACE);
    const c = text[at];
    if (c === undefined) return at + 1;
    const closer = open.at(-1);
    if (expecting === "after") {
      if (closer !== undefined && c === closer) open.pop();
      else if (closer !== undefined && c === ",") expecting = closer === "}" ? "key" : "value";
      else return at + 1;
      at++;
    } else if (expecting === "first" && c === closer) {
      open.pop();
      expecting = "after";
      at++;
    } else if (closer === "}" && (expecting === "key" || expecting === "first")) {
      if (c !== '"' || !skip(SCALAR)) return at + 1;
      skip(SPACE);
      if (text[at] !== ":") return at + 1;
      expecting = "value";
      at++;
    } else if (c === "{" || c === "[") {
      open.push(c === "{" ? "}" : "]");
      expecting = "first";
      at++;
    } else {
      if (!skip(SCALAR)) return at + 1;
      expecting = "after";
    }
  }
}
