// node kill-child.mjs FOLDER MOMENT: runs kill-child.ts, which needs its types stripped.
import { createServer } from "vite";

const server = await createServer({
  configFile: false,
  logLevel: "silent",
  oxc: { target: "es2022" },
  optimizeDeps: { noDiscovery: true },
  server: { middlewareMode: true, hmr: false, ws: false, watch: null },
});
const { trainUntilKilled } = await server.ssrLoadModule(new URL("kill-child.ts", import.meta.url).pathname);
await trainUntilKilled(process.argv[2], JSON.parse(process.argv[3]));
await server.close();
