// Names that come from inside a file (an index, an archive, a hub listing) must stay inside their folder.

import { QdlError } from "../errors.ts";

/** Throws PATH_UNSAFE unless `name` is a relative path of plain segments ("a/b.json"); `where` says who named it. */
export function checkRelativePath(name: string, where: string): void {
  const segments = name.split("/");
  const plain = segments.every((s) => s !== "" && s !== "." && s !== "..") && !/[\\\0]/.test(name);
  if (plain && !/^[A-Za-z]:/.test(name)) return;
  throw unsafe(name, where, "a relative path of plain names");
}

/** Throws PATH_UNSAFE unless `name` is a file name without any folder. */
export function checkPlainName(name: string, where: string): void {
  checkRelativePath(name, where);
  if (name.includes("/")) throw unsafe(name, where, "a plain file name without a folder");
}

function unsafe(name: string, where: string, expected: string): QdlError {
  return new QdlError(
    "PATH_UNSAFE",
    `${where}: file name is ${JSON.stringify(name)}, expected ${expected} because it must stay inside its folder`,
    { hint: "Do not use files from a source you do not trust.", details: { where, name } },
  );
}
