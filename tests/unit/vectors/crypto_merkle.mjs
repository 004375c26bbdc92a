// Writes crypto_merkle.json: trees made by OpenZeppelin's own library, which crypto/merkle.py must agree with.
// Run: npm install @openzeppelin/merkle-tree@1.0.8 && node crypto_merkle.mjs > crypto_merkle.json
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";

const address = (i) => "0x" + (BigInt(i + 1) * 0x123456789abcdef123456789abcdefn).toString(16).padStart(40, "0").slice(-40);
const word = (i) => "0x" + ((BigInt(i) * 0x9e3779b97f4a7c15f39cc0605cedc834n + 7n) % (1n << 256n)).toString(16).padStart(64, "0");
const kinds = {
  payout: {
    types: ["uint256", "address", "uint256", "uint256", "address", "uint256"],
    value: (i) => ["31337", address(1000), "7", String(i), address(i), String(10n ** 18n * BigInt(i + 1))],
  },
  digest: { types: ["bytes32"], value: (i) => [word(i)] },
  text: { types: ["string", "uint256"], value: (i) => ["name " + "x".repeat(i * 9), String(i)] },
};
const subsets = (n) => [[], [0], [n - 1, 0], [...Array(n).keys()], [...Array(n).keys()].filter((i) => i % 3 === 0)];

const trees = [];
for (const [name, { types, value }] of Object.entries(kinds)) {
  for (const n of [1, 2, 3, 4, 5, 6, 7, 8, 13, 64, 100]) {
    if (n > 13 && name !== "digest") continue;
    const values = Array.from({ length: n }, (_, i) => value(i));
    const tree = StandardMerkleTree.of(values, types);
    const proofs = values.map((_, i) => (n > 13 && i % 10 !== 0 ? null : tree.getProof(i)));
    const multiproofs = subsets(n)
      .map((indices) => [...new Set(indices)])
      .map((indices) => {
        const { leaves, proof, proofFlags } = tree.getMultiProof(indices);
        const order = leaves.map((leaf) => values.findIndex((v) => JSON.stringify(v) === JSON.stringify(leaf)));
        return { indices, order, proof, proofFlags };
      });
    trees.push({ types, values, root: tree.root, proofs, multiproofs });
  }
}
console.log(JSON.stringify({ source: "@openzeppelin/merkle-tree 1.0.8", trees }));
