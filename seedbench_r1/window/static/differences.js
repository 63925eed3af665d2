// Two texts word by word.

const WORDS = 1500; // of each text: longer ones are shown without differences, which would take a second

// [{text, kind}] with kind "same", "new" or "gone", in the order of reading; null for texts that are too long.
function differences(before, after) {
  const a = before.match(/\s+|[^\s]+/g) || [], b = after.match(/\s+|[^\s]+/g) || [];
  if (a.length > WORDS || b.length > WORDS) return null;
  // common[i][j]: the longest common subsequence of what follows.
  const width = b.length + 1, common = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i * width + j] = a[i] === b[j] ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const parts = [];
  const add = (text, kind) => {
    const last = parts[parts.length - 1];
    if (last && last.kind === kind) last.text += text; else parts.push({text, kind});
  };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { add(a[i], "same"); i++; j++; }
    else if (j === b.length || i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1]) add(a[i++], "gone");
    else add(b[j++], "new");
  }
  return parts;
}
