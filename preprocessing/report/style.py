"""How the pages look, in light and in dark."""

STYLE = """
:root{color-scheme:light dark;--paper:#fbfbfa;--card:#fff;--ink:#1d1f21;--quiet:#6b7075;--line:#e3e3df;--track:#eeeeea;
--kept:#2a9d6f;--dropped:#d9822b;--rest:#9aa0a6;--total:#3d6fb4;--limit:#b3261e}
@media(prefers-color-scheme:dark){:root{--paper:#16181a;--card:#1f2225;--ink:#e6e7e8;--quiet:#9aa0a6;--line:#34383c;
--track:#2a2e31;--kept:#3fbf8b;--dropped:#e8994a;--rest:#6f767c;--total:#6d9be0;--limit:#ff8a80}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:2rem 1.2rem 4rem;color:var(--ink);background:var(--paper)}
h1{font-size:1.7rem;margin:0}h2{font-size:1.2rem;margin:2.6rem 0 .6rem}h3{font-size:1rem;margin:1.4rem 0 .3rem}
p{margin:.3rem 0;max-width:60rem}.quiet{color:var(--quiet)}code{font:.88em ui-monospace,monospace;background:var(--track);padding:.1em .35em;border-radius:4px;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.4rem 0}
.tile,.panel{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.8rem 1rem}
.tile b{display:block;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.25}.tile span{color:var(--quiet);font-size:.87rem}
.funnel{display:grid;grid-template-columns:max-content 1fr max-content;gap:.32rem .9rem;align-items:center}
.funnel .track{background:var(--track);border-radius:4px;height:1.15rem}.funnel .bar{height:100%;min-width:2px;border-radius:4px}
.funnel .note{color:var(--quiet);font-variant-numeric:tabular-nums;font-size:.87rem}
.bar.total{background:var(--total)}.bar.kept{background:var(--kept)}.bar.dropped{background:var(--dropped)}.bar.rest{background:var(--rest)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));gap:.9rem}.charts h3,.panel h3{margin:0 0 .3rem;font-size:.92rem}
svg{display:block;width:100%;height:auto}svg text{font-size:10.5px;fill:var(--quiet)}svg .axis{stroke:var(--line)}
svg rect.kept{fill:var(--kept)}svg rect.dropped{fill:var(--dropped)}svg line.limit{stroke:var(--limit);stroke-dasharray:4 3;stroke-width:1.3}svg text.limit{fill:var(--limit);font-weight:600}
.key{display:inline-block;width:.75em;height:.75em;border-radius:3px;margin:0 .3em 0 .9em}.key.kept{background:var(--kept)}.key.dropped{background:var(--dropped)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(21.5rem,1fr));gap:.7rem;margin:.5rem 0}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;overflow:hidden;border-left:4px solid var(--kept)}
figure.dropped{border-left-color:var(--dropped)}
.strip{display:grid;grid-template-columns:repeat(3,1fr);gap:2px;min-height:3rem}
.strip img{background:#000;width:100%;height:100%;max-height:9rem;object-fit:contain;display:block}.strip .none{grid-column:1/4;align-self:center;text-align:center;color:var(--quiet);font-size:.8rem}
figcaption{padding:.35rem .6rem .45rem;font-size:.8rem;line-height:1.35;overflow-wrap:anywhere}figcaption .quiet{display:block}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}td,th{padding:.32rem .8rem .32rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{color:var(--quiet);font-weight:500}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.uri{overflow-wrap:anywhere}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--quiet);padding:.25rem 0}
"""
