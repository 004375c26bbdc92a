// Mutation score of the contracts: node scripts/mutants.js [--every N] [--only K] [--list]
//
// All mutants are compiled at once. Each stands behind a comparison of block.coinbase with its own number, which forge
// is told per run: so no mutant needs a compilation of its own. A mutant is killed when a test fails; those that the
// unit tests let live meet the invariants too. Prints every survivor; exits with 1 below 95 %.
// Operators: comparisons, logic, arithmetic, bits, "!", conditions fixed to true and false, removed statements.
"use strict";
const { spawnSync } = require("child_process");
const fs = require("fs");
const os = require("os");
const path = require("path");
const solc = require("solc");
const { forgePath } = require("./forge.js");

const ROOT = path.resolve(__dirname, "..");
const RESULT = path.join(ROOT, "../benchmarks/results/mutation.json");
const SLOW_SUITES = "InvariantsTest|JobLawsTest";
const TIMEOUT_MS = 300_000;
const TARGET = 0.95;
const SWAPS = {
  "<": ["<=", ">"],
  "<=": ["<", ">"],
  ">": [">=", "<"],
  ">=": [">", "<"],
  "==": ["!="],
  "!=": ["=="],
  "&&": ["||"],
  "||": ["&&"],
  "+": ["-"],
  "-": ["+"],
  "*": ["/"],
  "/": ["*"],
  "%": ["*"],
  "<<": [">>"],
  ">>": ["<<"],
  "&": ["|"],
  "|": ["&"],
};

function option(name, otherwise) {
  const at = process.argv.indexOf(name);
  return at < 0 ? otherwise : Number(process.argv[at + 1]);
}

function sources() {
  const names = fs.readdirSync(path.join(ROOT, "src")).filter((name) => name.endsWith(".sol"));
  return names.sort().map((name) => `src/${name}`);
}

function syntaxTrees(names) {
  const input = {
    language: "Solidity",
    sources: Object.fromEntries(
      names.map((name) => [name, { content: fs.readFileSync(path.join(ROOT, name), "utf8") }]),
    ),
    settings: { evmVersion: "prague", outputSelection: { "*": { "": ["ast"] } } },
  };
  const load = (name) => ({ contents: fs.readFileSync(require.resolve(name, { paths: [ROOT] }), "utf8") });
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: load }));
  const errors = (output.errors || []).filter((problem) => problem.severity === "error");
  if (errors.length > 0) throw new Error(errors.map((problem) => problem.formattedMessage).join("\n"));
  return Object.fromEntries(names.map((name) => [name, output.sources[name].ast]));
}

const range = (node) => {
  const [start, length] = node.src.split(":").map(Number);
  return { start, end: start + length };
};

// What may be done at a node: pairs of a description and of the mutated text, from the original text.
function mutationsAt(node, text) {
  const of = (part) => {
    const { start, end } = range(part);
    return text.subarray(start, end).toString();
  };
  if (node.nodeType === "BinaryOperation" && !node.typeDescriptions.typeString.startsWith("int_const")) {
    const [left, right] = [of(node.leftExpression), of(node.rightExpression)];
    return (SWAPS[node.operator] || []).map((swap) => [`${node.operator} to ${swap}`, `(${left} ${swap} ${right})`]);
  }
  if (node.nodeType === "UnaryOperation" && node.operator === "!") return [["! removed", of(node.subExpression)]];
  return [];
}

// A storage pointer must be assigned before it is used: the compiler says so, no test need.
function isRemovable(node) {
  const kind = node.expression?.leftHandSide?.typeDescriptions?.typeString || "";
  if (kind.endsWith("storage pointer")) return false;
  return ["ExpressionStatement", "EmitStatement", "RevertStatement"].includes(node.nodeType);
}

// The mutated file, and what each of its mutants is.
function mutate(name, tree, text, firstNumber) {
  const mutants = [];
  const edits = [];
  const number = (node, what) => {
    const line = text.subarray(0, range(node).start).toString().split("\n").length;
    mutants.push({ number: firstNumber + mutants.length, where: `${name}:${line}`, what });
    return firstNumber + mutants.length - 1;
  };
  const visit = (node, inBody, inLoopHead, isOnlyBranch = false) => {
    if (node === null || typeof node !== "object") return;
    if (Array.isArray(node)) {
      for (const each of node) visit(each, inBody, inLoopHead);
      return;
    }
    if (typeof node.nodeType !== "string") return;
    if (node.nodeType === "InlineAssembly") return;
    if (inBody && !inLoopHead) {
      const found = mutationsAt(node, text).map(([what, mutated]) => [number(node, what), mutated]);
      if (found.length > 0) {
        edits.push({
          ...range(node),
          wrap: (inner) =>
            `(${found.map(([k, mutated]) => `block.coinbase == address(${k}) ? ${mutated} : `).join("")}${inner})`,
        });
      }
      if (isRemovable(node) && !isOnlyBranch) {
        const k = number(node, "statement removed");
        edits.push({ ...range(node), wrap: (inner) => `if (block.coinbase != address(${k})) ${inner}` });
      }
      if (node.nodeType === "IfStatement") {
        const [yes, no] = [number(node, "condition true"), number(node, "condition false")];
        edits.push({
          ...range(node.condition),
          wrap: (inner) =>
            `(block.coinbase == address(${yes}) ? true : block.coinbase == address(${no}) ? false : ${inner})`,
        });
      }
    }
    const isFunction = ["FunctionDefinition", "ModifierDefinition"].includes(node.nodeType);
    for (const [key, child] of Object.entries(node)) {
      const isHead = inLoopHead || (node.nodeType === "ForStatement" && key !== "body");
      const isBranch = node.nodeType === "IfStatement" && key === "trueBody";
      visit(child, inBody || (isFunction && key === "body"), isHead, isBranch);
    }
  };
  visit(tree, false, false);
  // Of edits with the same range the later one is inside.
  const render = (start, end, inside) => {
    let out = "";
    let at = start;
    while (at < end) {
      const next = inside.filter((edit) => edit.start >= at && edit.end <= end);
      if (next.length === 0) break;
      next.sort((a, b) => a.start - b.start || b.end - a.end);
      const edit = next[0];
      out += text.subarray(at, edit.start).toString();
      out += edit.wrap(render(edit.start, edit.end, inside.filter((other) => other !== edit)));
      at = edit.end;
    }
    return out + text.subarray(at, end).toString();
  };
  return { mutants, mutated: render(0, text.length, edits) };
}

function forge(folder, arguments_, coinbase) {
  return spawnSync(forgePath(), arguments_, {
    cwd: folder,
    env: { ...process.env, FOUNDRY_BLOCK_COINBASE: `0x${coinbase.toString(16).padStart(40, "0")}` },
    timeout: TIMEOUT_MS,
    killSignal: "SIGKILL",
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
}

const UNIT = ["test", "--fail-fast", "--no-match-contract", SLOW_SUITES];
const LAWS = ["test", "--fail-fast", "--match-contract", SLOW_SUITES];

function build() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "galaxy-mutants-"));
  for (const name of ["foundry.toml", "src", "test", "scripts"]) {
    fs.cpSync(path.join(ROOT, name), path.join(folder, name), { recursive: true });
  }
  fs.symlinkSync(fs.realpathSync(path.join(ROOT, "node_modules")), path.join(folder, "node_modules"));
  const names = sources();
  const trees = syntaxTrees(names);
  const all = [];
  for (const name of names) {
    const text = fs.readFileSync(path.join(ROOT, name));
    const { mutants, mutated } = mutate(name, trees[name], text, all.length + 1);
    fs.writeFileSync(path.join(folder, name), mutated);
    all.push(...mutants);
  }
  // Who asks for the block is no longer pure.
  for (const part of ["src", "test", "test/support", "src/dev"]) {
    for (const entry of fs.readdirSync(path.join(folder, part))) {
      if (!entry.endsWith(".sol")) continue;
      const file = path.join(folder, part, entry);
      fs.writeFileSync(file, fs.readFileSync(file, "utf8").replace(/\bpure\b/g, "view"));
    }
  }
  return { folder, all };
}

function main() {
  const { folder, all } = build();
  if (process.argv.includes("--list")) {
    for (const { number, where, what } of all) process.stdout.write(`${number} ${where} ${what}\n`);
    return 0;
  }
  const [every, only] = [option("--every", 1), option("--only", 0)];
  const chosen = all.filter(({ number }) => (only ? number === only : number % every === 0));
  process.stdout.write(`${all.length} mutants, ${chosen.length} of them run, in ${folder}\n`);
  for (const suite of [UNIT, LAWS]) {
    const run = forge(folder, suite, 0);
    if (run.status !== 0) {
      process.stderr.write(`without a mutant the tests fail:\n${run.stdout.slice(-4000)}${run.stderr.slice(-4000)}\n`);
      return 2;
    }
  }
  const survivors = [];
  chosen.forEach((mutant, index) => {
    let killed = forge(folder, UNIT, mutant.number).status !== 0;
    if (!killed) killed = forge(folder, LAWS, mutant.number).status !== 0;
    if (!killed) {
      survivors.push(mutant);
      process.stdout.write(`survived: ${mutant.number} ${mutant.where} ${mutant.what}\n`);
    }
    if ((index + 1) % 25 === 0) {
      process.stdout.write(`${index + 1} of ${chosen.length}, ${survivors.length} survived\n`);
    }
  });
  const score = 1 - survivors.length / chosen.length;
  process.stdout.write(`mutation score ${(100 * score).toFixed(1)} % of ${chosen.length}, target ${100 * TARGET} %\n`);
  if (!only) {
    const rows = [
      {
        row: "mutants of the contracts that no test kills",
        count: chosen.length,
        violations: survivors.length,
        target: Math.floor((1 - TARGET) * chosen.length),
        survivors: survivors.map(({ where, what }) => `${where} ${what}`),
      },
    ];
    fs.writeFileSync(RESULT, `${JSON.stringify(rows, null, 1)}\n`);
  }
  fs.rmSync(folder, { recursive: true, force: true });
  return score >= TARGET ? 0 : 1;
}

process.exitCode = main();
