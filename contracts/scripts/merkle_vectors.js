// Roots, proofs and multiproofs of OpenZeppelin's own library, as JSON on stdout.
// Reads {"types": [...], "trees": [{"sort_leaves": bool, "values": [[...]], "subset": [index, ...]}]} from stdin.
"use strict";
const fs = require("fs");
const { StandardMerkleTree } = require("@openzeppelin/merkle-tree");

const { types, trees } = JSON.parse(fs.readFileSync(0, "utf8"));
const vectors = trees.map(({ sort_leaves: sortLeaves, values, subset }) => {
  const tree = StandardMerkleTree.of(values, types, { sortLeaves });
  const { leaves, proof, proofFlags } = tree.getMultiProof(subset);
  return {
    root: tree.root,
    proofs: values.map((_, index) => tree.getProof(index)),
    multiproof: { leaves, proof, proof_flags: proofFlags },
  };
});
process.stdout.write(JSON.stringify(vectors));
