// Markup with everything escaped: a tree of elements, never strings glued together.

export type Child = Element | string | number | null | readonly Child[];

export interface Element {
  readonly tag: string;
  readonly attributes: Readonly<Record<string, string | number | null>>;
  readonly children: readonly Child[];
}

/** An element. Attributes that are null are left out. */
export const h = (tag: string, attributes: Element["attributes"] = {}, ...children: Child[]): Element => ({
  tag,
  attributes,
  children,
});

const ESCAPES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};
const escapeText = (text: string): string => text.replaceAll(/[&<>"']/g, (character) => ESCAPES[character]!);

const VOID = new Set(["meta", "br", "hr", "img", "link"]);

/** The markup as text. `style` elements are written as they are: their content is ours. */
export function render(child: Child): string {
  if (child === null) return "";
  if (typeof child === "number") return String(child);
  if (typeof child === "string") return escapeText(child);
  if (isList(child)) return child.map(render).join("");
  const attributes = Object.entries(child.attributes)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => ` ${name}="${escapeText(String(value))}"`)
    .join("");
  if (VOID.has(child.tag)) return `<${child.tag}${attributes}>`;
  const content = child.tag === "style" ? child.children.join("") : child.children.map(render).join("");
  return `<${child.tag}${attributes}>${content}</${child.tag}>`;
}

const isList = (child: Element | readonly Child[]): child is readonly Child[] => Array.isArray(child);
