// Builds a class, in the folder of its project: `node berth-object/build.mjs MODULE COMPONENT`. The class is the module's default export.

import { access, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

// The tools are the project's: this folder may be a link to somewhere that has none.
const require = createRequire(path.resolve("package.json"));
const { componentize } = require("componentize-qjs");
const { build } = require("esbuild");

const sdk = (file) => fileURLToPath(new URL(file, import.meta.url));

/** One module of everything. The engine answers calls of the host without running jobs of its own promises: so `async` becomes
 * generators over the global `Promise`, which is the SDK's. */
async function bundle(module) {
  const [serve, source] = [sdk("src/serve.js"), path.resolve(module)].map((file) => JSON.stringify(file));
  const { outputFiles } = await build({
    stdin: {
      contents: `import { serve } from ${serve};\nimport Class from ${source};\nexport const events = serve(Class);\n`,
      resolveDir: process.cwd(),
      sourcefile: "class.js",
    },
    alias: { "berth-object": sdk("src/index.js") },
    bundle: true,
    charset: "utf8",
    external: ["berth:*", "wasi:*"],
    format: "esm",
    logLevel: "warning",
    mainFields: ["module", "main"],
    platform: "neutral",
    supported: {
      "async-await": false,
      "async-generator": false,
      "for-await": false,
      "top-level-await": false,
      using: false,
    },
    target: "esnext",
    write: false,
  });
  return outputFiles[0].text;
}

const [module, component] = process.argv.slice(2);
if (component === undefined) {
  console.error("usage: node build.mjs MODULE COMPONENT, for example node berth-object/build.mjs src/object.js class.wasm");
  process.exit(2);
}
try {
  await access(module);
  const jsSource = await bundle(module);
  const made = await componentize({ witPath: sdk("wit"), jsSource, sync: true, world: "class" });
  await writeFile(component, made.component);
} catch (error) {
  // What esbuild found, it has shown.
  if (!error.errors) console.error(`berth-object: ${error.message}`);
  process.exit(1);
}
