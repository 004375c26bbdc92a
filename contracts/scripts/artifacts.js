// Compiles the contracts and writes the artifacts that the Python package ships: node scripts/artifacts.js [folder]
// Everything that decides the bytecode is in the digest: sources, settings, compiler and library versions.
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const ROOT = path.resolve(__dirname, "..");
const TARGET = path.resolve(process.argv[2] || path.join(ROOT, "../src/galaxylearning/chain/abi"));
const CONTRACTS = {
  GalaxyRegistry: "src/GalaxyRegistry.sol",
  GalaxyJobs: "src/GalaxyJobs.sol",
  DemoToken: "src/dev/DemoToken.sol",
  GalaxyTypesHarness: "src/dev/GalaxyTypesHarness.sol",
};
const BYTECODE_LIMIT = 24576; // EIP-170

function solidityFiles(folder) {
  return fs.readdirSync(path.join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return solidityFiles(name);
    return name.endsWith(".sol") ? [name] : [];
  });
}

const read = (name) => fs.readFileSync(path.join(ROOT, name));

// SHA-256 over "path\0length\0bytes" of each source in order of path, then settings.json and the two versions.
// tests/contracts/test_abi_freshness.py computes the same without node.
function sourceDigest(names) {
  const hash = crypto.createHash("sha256");
  const add = (name, bytes) => hash.update(`${name}\0${bytes.length}\0`).update(bytes);
  for (const name of names) add(name, read(name));
  add("settings.json", read("settings.json"));
  const { dependencies } = JSON.parse(read("package.json"));
  for (const name of ["@openzeppelin/contracts", "solc"]) add(name, Buffer.from(dependencies[name]));
  return hash.digest("hex");
}

function compile(names) {
  const input = JSON.parse(read("settings.json"));
  input.sources = Object.fromEntries(names.map((name) => [name, { content: read(name).toString() }]));
  const load = (name) => ({ contents: fs.readFileSync(require.resolve(name, { paths: [ROOT] }), "utf8") });
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: load }));
  const problems = output.errors || [];
  if (problems.length > 0) {
    process.stderr.write(problems.map((problem) => problem.formattedMessage).join("\n"));
    process.exit(1); // warnings are errors
  }
  return output.contracts;
}

const names = solidityFiles("src").sort();
const digest = sourceDigest(names);
const compiled = compile(names);
fs.mkdirSync(TARGET, { recursive: true });
for (const [contract, source] of Object.entries(CONTRACTS)) {
  const { abi, evm } = compiled[source][contract];
  const size = evm.deployedBytecode.object.length / 2;
  if (size > BYTECODE_LIMIT) throw new Error(`${contract} has ${size} bytes; the chain allows ${BYTECODE_LIMIT}`);
  const artifact = { abi, bytecode: `0x${evm.bytecode.object}`, source_digest: digest };
  fs.writeFileSync(path.join(TARGET, `${contract}.json`), `${JSON.stringify(artifact, null, 1)}\n`);
  process.stdout.write(`${contract}: ${size} bytes\n`);
}
