// The statistics of the page: the same formulae as the Python package, checked on shared vectors.
// Fractions throughout. Differences are whole numbers: -1, 0 or 1 a question.

const Z = 1.959963984540054; // 0.975 quantile of the standard normal distribution
const FEW_CLUSTERS = 30; // below, intervals of a share use Student's t
const EXACT_CLUSTERS = 14; // up to here all sign patterns are counted
const RESAMPLES = 9999;
const SHARED = 0.95; // share of either run's questions that a test of two runs needs

// log Gamma(x) for x > 0, Lanczos' series with g = 7 and nine terms.
function logGamma(x) {
  const terms = [676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059, 12.507343278686905,
    -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7];
  let sum = 0.99999999999980993;
  terms.forEach((term, i) => { sum += term / (x + i); });
  const t = x + 6.5;
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(sum);
}

// Regularised incomplete beta function, by Lentz's continued fraction.
function incompleteBeta(x, a, b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const away = (value) => (Math.abs(value) < 1e-300 ? 1e-300 : value);
  let c = 1, d = 1 / away(1 - (a + b) * x / (a + 1)), fraction = d;
  for (let m = 1; m < 1000; m++) {
    const even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / away(1 + even * d);
    c = away(1 + even / c);
    fraction *= d * c;
    const odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / away(1 + odd * d);
    c = away(1 + odd / c);
    fraction *= d * c;
    if (Math.abs(d * c - 1) < 1e-15) break;
  }
  const front = logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x);
  return Math.exp(front) * fraction / a;
}

const quantiles = new Map();

// 0.975 quantile of Student's t: bisection on its tail; infinite for no degrees of freedom.
function tQuantile(degrees) {
  if (degrees <= 0) return Infinity;
  if (quantiles.has(degrees)) return quantiles.get(degrees);
  let lo = 0, hi = 13; // t(1) is 12.7
  for (let i = 0; i < 60; i++) {
    const t = (lo + hi) / 2;
    const tail = incompleteBeta(degrees / (degrees + t * t), degrees / 2, 0.5); // both tails
    if (tail > 0.05) lo = t; else hi = t;
  }
  quantiles.set(degrees, (lo + hi) / 2);
  return quantiles.get(degrees);
}

// Mean, CR1 standard error and counts of values whose clusters are numbered from 0.
function standardErrors(values, clusters) {
  const n = values.length, sums = new Map();
  if (n === 0) return {mean: NaN, se: NaN, n: 0, nClusters: 0};
  let total = 0;
  for (let i = 0; i < n; i++) total += values[i];
  const mean = total / n;
  for (let i = 0; i < n; i++) sums.set(clusters[i], (sums.get(clusters[i]) || 0) + values[i] - mean);
  let between = 0;
  for (const sum of sums.values()) between += sum * sum;
  const g = sums.size;
  return {mean, se: g > 1 ? Math.sqrt(between * g / (g - 1)) / n : NaN, n, nClusters: g};
}

// Student's t; where no spread between clusters is seen, the exact interval of as many clusters with this same mean.
function pairedInterval(differences, clusters) {
  const errors = standardErrors(differences, clusters), {mean, n} = errors;
  if (errors.se > 1e-9) { // sums of equal differences may differ in their last bit
    const half = tQuantile(errors.nClusters - 1) * errors.se;
    return {...errors, lo: mean - half, hi: mean + half};
  }
  const sizes = new Map();
  for (const cluster of clusters) sizes.set(cluster, (sizes.get(cluster) || 0) + 1);
  let squares = 0;
  for (const size of sizes.values()) squares += size * size;
  const q = 0.025 ** (squares / n ** 2);
  return {...errors, lo: q * mean - (1 - q), hi: q * mean + (1 - q)};
}

// PCG64 (XSL-RR), raw 64-bit words. The 128-bit state and increment are hexadecimal.
class Pcg64 {
  constructor(state, increment) {
    this.state = Pcg64.limbs(state);
    this.increment = Pcg64.limbs(increment);
    this.next = new Float64Array(8);
  }

  // Eight limbs of 16 bits, lowest first.
  static limbs(hex) {
    const text = hex.padStart(32, "0");
    return Float64Array.from({length: 8}, (_, i) => parseInt(text.slice(28 - 4 * i, 32 - 4 * i), 16));
  }

  // The next word as [low 32 bits, high 32 bits].
  word() {
    const s = this.state, m = Pcg64.MULTIPLIER, next = this.next;
    let carry = 0;
    for (let k = 0; k < 8; k++) {
      let sum = carry + this.increment[k];
      for (let i = 0; i <= k; i++) sum += s[i] * m[k - i];
      next[k] = sum % 65536;
      carry = Math.floor(sum / 65536);
    }
    this.next = s;
    this.state = next;
    const low = (next[0] ^ next[4] | (next[1] ^ next[5]) << 16) >>> 0;
    const high = (next[2] ^ next[6] | (next[3] ^ next[7]) << 16) >>> 0;
    const turn = next[7] >>> 10; // the six highest bits of the state
    const [a, b] = turn & 32 ? [high, low] : [low, high];
    const r = turn & 31;
    return r ? [(a >>> r | b << 32 - r) >>> 0, (b >>> r | a << 32 - r) >>> 0] : [a, b];
  }
}
Pcg64.MULTIPLIER = Pcg64.limbs("2360ed051fc65da44385df649fccf645"); // PCG's 128-bit default multiplier

// Random signs for the sign-flip test: row g is the next 157 words, lowest bit first. Only running sums are kept:
// counts[m] tells, for each of the resamples, how many of the first m rows have their bit set.
class SignSums {
  constructor(state, increment) {
    this.source = new Pcg64(state, increment);
    this.counts = [new Uint16Array(RESAMPLES)];
  }

  upTo(rows) {
    while (this.counts.length <= rows) {
      const sums = this.counts[this.counts.length - 1].slice();
      for (let start = 0; start < RESAMPLES; start += 64) {
        const [low, high] = this.source.word();
        const first = Math.min(32, RESAMPLES - start), second = Math.min(32, RESAMPLES - start - 32);
        for (let b = 0; b < first; b++) sums[start + b] += low >>> b & 1;
        for (let b = 0; b < second; b++) sums[start + 32 + b] += high >>> b & 1;
      }
      this.counts.push(sums);
    }
    return this.counts;
  }
}

// Two-sided p of the cluster sign-flip test. Of whole differences the sum over clusters of size x sign is, with sizes
// sorted downwards, the sum over v of how many of the clusters of size >= v kept their sign; of others it is added up
// cluster by cluster, with a tolerance for the order of additions.
function signFlip(differences, clusters, signSums) {
  const sums = new Map();
  let total = 0;
  for (let i = 0; i < differences.length; i++) {
    sums.set(clusters[i], (sums.get(clusters[i]) || 0) + differences[i]);
    total += differences[i];
  }
  const sizes = [...sums.values()].map(Math.abs).filter((size) => size > 0).sort((a, b) => b - a);
  const all = sizes.reduce((a, b) => a + b, 0), whole = sizes.every(Number.isInteger);
  const observed = Math.abs(total) - (whole ? 0 : 1e-9 * all);
  if (sums.size <= EXACT_CLUSTERS) {
    let hits = 0;
    for (let pattern = 0; pattern < 2 ** sizes.length; pattern++) {
      let flipped = 0;
      sizes.forEach((size, g) => { flipped += pattern >> g & 1 ? size : -size; });
      hits += Math.abs(flipped) >= observed;
    }
    return hits / 2 ** sizes.length;
  }
  const counts = signSums.upTo(sizes.length), kept = whole ? new Int32Array(RESAMPLES) : new Float64Array(RESAMPLES);
  if (!whole) {
    sizes.forEach((size, g) => { for (let j = 0; j < RESAMPLES; j++) kept[j] += size * (counts[g + 1][j] - counts[g][j]); });
  }
  for (let v = 1, m = whole ? sizes.length : 0; m > 0; v++) {
    while (m > 0 && sizes[m - 1] < v) m--;
    if (m > 0) for (let j = 0, row = counts[m]; j < RESAMPLES; j++) kept[j] += row[j];
  }
  let hits = 0;
  for (let j = 0; j < RESAMPLES; j++) hits += Math.abs(2 * kept[j] - all) >= observed;
  return (1 + hits) / (RESAMPLES + 1);
}

// Holm's adjustment, in the order given.
function holm(p) {
  const order = p.map((_, i) => i).sort((a, b) => p[a] - p[b] || a - b), adjusted = new Array(p.length);
  let largest = 0;
  order.forEach((place, rank) => {
    largest = Math.max(largest, Math.min(1, p[place] * (p.length - rank)));
    adjusted[place] = largest;
  });
  return adjusted;
}

// Benjamini and Hochberg's adjustment, in the order given.
function benjaminiHochberg(p) {
  const order = p.map((_, i) => i).sort((a, b) => p[b] - p[a] || a - b), adjusted = new Array(p.length);
  let smallest = 1;
  order.forEach((place, rank) => {
    smallest = Math.min(smallest, p[place] * p.length / (p.length - rank));
    adjusted[place] = smallest;
  });
  return adjusted;
}

// McNemar's exact and mid-p value; b: only the first is right, c: only the second.
function mcnemar(b, c) {
  if (b === c) return {exact: 1, midP: 1};
  const n = b + c, fewer = Math.min(b, c);
  const mass = (k) => Math.exp(logGamma(n + 1) - logGamma(k + 1) - logGamma(n - k + 1) - n * Math.LN2);
  let below = 0;
  for (let k = 0; k < fewer; k++) below += mass(k);
  return {exact: Math.min(1, 2 * (below + mass(fewer))), midP: 2 * below + mass(fewer)};
}
