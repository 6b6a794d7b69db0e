// Long loops over a device end each piece of work with a breath, so that Ctrl-C and other work are heard.

/** Lets the event loop handle signals and input between pieces of work. */
export function breathe(): Promise<void> {
  const later = (globalThis as { setImmediate?: (f: () => void) => void }).setImmediate ?? setTimeout;
  return new Promise((resolve) => later(() => resolve()));
}
