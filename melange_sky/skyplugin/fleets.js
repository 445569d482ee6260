// The Fleets page of SkyPilot's dashboard. One static file: no inline script, no eval, nothing from elsewhere.
(function () {
  'use strict';

  var EVERY_MS = 15000;
  var PATH = '/plugins/api/melange';

  var STYLE = [
    '.msk{color:#111827;font-size:14px;line-height:1.45}',
    '.msk h1{font-size:18px;font-weight:600;margin:0}',
    '.msk h2{font-size:16px;font-weight:600;margin:0}',
    '.msk h3{font-size:14px;font-weight:600;margin:14px 0 4px}',
    '.msk a{color:#1d4ed8;text-decoration:underline}.msk a:hover{text-decoration-thickness:2px}',
    '.msk button{color:#1d4ed8;padding:2px 6px}',
    '.msk :focus-visible{outline:2px solid #1d4ed8;outline-offset:2px}',
    '.msk .head{display:flex;flex-wrap:wrap;gap:4px 16px;align-items:baseline;justify-content:space-between}',
    '.msk .soft{color:#4b5563}.msk .bad{color:#991b1b}',
    '.msk .told{border:1px solid #d97706;background:#fffbeb;color:#78350f;border-radius:6px;padding:8px 12px;margin:10px 0}',
    '.msk .told p{margin:2px 0;overflow-wrap:anywhere}',
    '.msk .card{border:1px solid #e5e7eb;border-radius:8px;background:#fff;padding:14px 16px;margin:14px 0}',
    '.msk .sums{display:flex;flex-wrap:wrap;gap:10px 28px;margin:10px 0 4px}',
    '.msk .sums dt{color:#4b5563;font-size:12px;margin:0}.msk .sums dd{margin:0;font-weight:600}',
    '.msk .sums dd small{font-weight:400;color:#4b5563}',
    '.msk .wide{overflow-x:auto}',
    '.msk table{border-collapse:collapse;width:100%}',
    '.msk th{font-weight:500;color:#4b5563;font-size:12px;text-align:left;white-space:nowrap}',
    '.msk th,.msk td{padding:6px 14px 6px 0;border-bottom:1px solid #f3f4f6;vertical-align:top}',
    '.msk .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}',
    '.msk td small{display:block;color:#4b5563}',
    '.msk .n small{white-space:normal;max-width:18em;margin-left:auto}',
    '.msk figure{margin:14px 0 22px;max-width:860px}.msk h4{font-weight:600;margin:0 0 6px}',
    '.msk img{max-width:100%;height:auto;background:#fff}.msk figcaption{color:#4b5563;margin:4px 0}',
    '.msk ul{margin:4px 0 10px 18px;list-style:disc}.msk li{margin:2px 0;overflow-wrap:anywhere}',
    '.msk summary{cursor:pointer;color:#1d4ed8;margin-top:10px}',
    '.msk tbody td:nth-child(2){min-width:12em}.msk [data-figure=price]{min-width:13em}'
  ].join('\n');

  function el(tag, given, children) {
    var node = document.createElement(tag);
    Object.keys(given || {}).forEach(function (key) { node.setAttribute(key, given[key]); });
    (children || []).forEach(function (child) {
      if (child === null || child === undefined) return;
      node.appendChild(typeof child === 'object' ? child : document.createTextNode(String(child)));
    });
    return node;
  }

  function usd(value, digits) {
    if (value === null || value === undefined) return 'unknown';
    return '$' + value.toLocaleString('en-US', {minimumFractionDigits: digits, maximumFractionDigits: digits});
  }

  function percent(fraction) {
    return fraction === null || fraction === undefined ? 'unknown' : (100 * fraction).toFixed(1) + '%';
  }

  function days(age) {
    if (age === null || age === undefined) return 'age unknown';
    return age < 1 ? 'less than a day old' : age < 2 ? '1 day old' : Math.floor(age) + ' days old';
  }

  // Only an address of the web becomes a link: what SkyPilot says of a service is not ours to trust.
  function link(href, text) {
    return /^https?:\/\//.test(href) ? el('a', {href: href, rel: 'noopener noreferrer', target: '_blank'}, [text || href]) : text || href;
  }

  var WORDS = [['starting', 'starting'], ['not_ready', 'not ready'], ['stopping', 'stopping'], ['failed', 'failed']];

  function liveText(row) {
    if (row.live_replicas === null) return 'unknown';
    var others = WORDS.filter(function (pair) { return row.live_replicas[pair[0]] > 0; })
      .map(function (pair) { return row.live_replicas[pair[0]] + ' ' + pair[1]; });
    return row.live_replicas.ready + ' ready' + (others.length ? ', ' + others.join(', ') : '');
  }

  function priceCell(row) {
    var source = row.price_source === null ? null : row.price_source + (row.price_as_of === null ? ', undated' : ', ' + days(row.price_age_days));
    return el('td', {'class': 'n', 'data-figure': 'price'}, [usd(row.price_usd_per_hour, 3), source === null ? null : el('small', {}, [source])]);
  }

  function optionRow(row) {
    var place = [row.instance_type, row.infra, row.use_spot ? 'spot' : null].filter(Boolean).join(', ');
    var off = row.unplanned.length ? el('small', {'class': 'bad'}, ['runs on ' + row.unplanned.join(', ') + ', not as planned']) : null;
    return el('tr', {'data-option': row.option}, [
      el('td', {}, [row.accelerators, el('small', {}, [place])]),
      el('td', {}, [row.service || 'none', el('small', {}, [row.status || 'status unknown']), row.endpoint ? el('small', {}, [link(row.endpoint)]) : null]),
      el('td', {'class': 'n', 'data-figure': 'planned'}, [row.planned_replicas, moved(row)]),
      el('td', {'class': 'n', 'data-figure': 'live'}, [liveText(row), off]),
      el('td', {'class': 'n', 'data-figure': 'load'}, [percent(row.planned_load)]),
      observedLoad(row),
      priceCell(row),
      el('td', {'class': 'n', 'data-figure': 'planned-usd'}, [usd(row.planned_usd_per_hour, 3)]),
      el('td', {'class': 'n', 'data-figure': 'live-usd'}, [usd(row.live_usd_per_hour, 3)])
    ]);
  }

  var HEADS = [['Runs on', ''], ['Service', ''], ['Planned', 'n'], ['Live', 'n'], ['Planned load', 'n'], ['Observed load', 'n'], ['Price per hour', 'n'], ['Planned $/h', 'n'], ['Live $/h', 'n']];

  function table(fleet, model) {
    var heads = HEADS.map(function (head) { return el('th', {scope: 'col', 'class': head[1]}, [head[0]]); });
    return el('div', {'class': 'wide', tabindex: '0', role: 'region', 'aria-label': 'Options of ' + model.name}, [
      el('table', {}, [el('thead', {}, [el('tr', {}, heads)]), el('tbody', {}, model.options.map(optionRow))])
    ]);
  }

  function moved(row) {
    if (row.planned_min_replicas === row.planned_max_replicas) return null;
    return el('small', {}, [row.planned_min_replicas + ' to ' + row.planned_max_replicas + ' by SkyServe’s autoscaler']);
  }

  function observedLoad(row) {
    if (row.observed_load === null && row.observed_rps === null) return el('td', {'class': 'n', 'data-figure': 'observed-load'}, ['not observed']);
    var load = row.observed_load === null ? 'unknown' : percent(row.observed_load);
    return el('td', {'class': 'n', 'data-figure': 'observed-load'}, [load, el('small', {}, [rate(row.observed_rps) + ' req/s'])]);
  }

  function rate(value) {
    return value === null ? 'unknown' : String(Number(value.toPrecision(3)));
  }

  function span(seconds) {
    if (seconds < 120) return Math.round(seconds) + ' s';
    return seconds < 7200 ? Math.round(seconds / 60) + ' min' : Math.round(seconds / 3600) + ' h';
  }

  // What gateways saw: the rate and the part within the SLO, over which time, how long ago, by whom.
  function observed(model) {
    var seen = model.observed;
    if (seen === null) return [sum('Observed', 'observed', ['not observed ', el('small', {}, ['no gateway is named for it'])])];
    if (seen.over_s === null) return [sum('Observed', 'observed', ['not observed ', el('small', {}, [seen.told.join('; ')])])];
    var when = 'mean of ' + span(seen.over_s) + ', ' + span(seen.age_s) + ' ago, at ' + seen.gateways.join(', ');
    var refused = seen.refused_rps ? rate(seen.refused_rps) + ' of them refused; ' : '';
    var within = seen.attainment === null ? ['not observed ', el('small', {}, ['no answer was streamed'])]
      : [percent(seen.attainment) + ' ', el('small', {}, ['of streamed answers, the same ' + span(seen.over_s)])];
    return [
      sum('Observed requests per second', 'observed-rate', [rate(seen.rate_rps) + ' ', el('small', {}, [refused + when])]),
      sum('Observed within the SLO', 'observed-attainment', within)
    ];
  }

  function attainment(model) {
    var found = model.verified;
    var planned = percent(model.planned_attainment) + ' planned';
    if (found === null) return [planned + ' ', el('small', {}, ['of a wanted ' + percent(model.slo_attainment) + ', by estimate: not verified'])];
    var said = percent(found.attainment) + ' in replay ';
    var range = percent(found.low) + ' to ' + percent(found.high) + ', of a wanted ' + percent(model.slo_attainment);
    return [said, el('small', {}, [range + (found.holds ? '' : ': does not hold')])];
  }

  function sum(name, figure, value) {
    return el('div', {}, [el('dt', {}, [name]), el('dd', {'data-figure': figure}, value)]);
  }

  function stray(one) {
    return el('p', {}, [one.service + ': ' + one.replicas + ' replicas run, and the plan does not want them (' + usd(one.usd_per_hour, 3) + '/h)']);
  }

  function card(fleet) {
    var prices = fleet.prices;
    var age = prices.oldest_as_of === null ? ['unknown'] : [days(prices.oldest_age_days) + ' ', el('small', {}, ['oldest as of ' + prices.oldest_as_of.slice(0, 10)])];
    var body = [
      el('div', {'class': 'head'}, [
        el('h2', {}, [fleet.name]),
        el('span', {'class': 'soft'}, ['planned ' + fleet.created_at.slice(0, 16).replace('T', ' ') + ' UTC, folder ' + fleet.folder + ' · ', el('a', {href: page.base + PATH + '/plans/' + encodeURIComponent(fleet.id), target: '_blank', rel: 'noopener'}, ['plan.json'])])
      ]),
      el('dl', {'class': 'sums'}, [
        sum('Planned', 'fleet-planned-usd', [usd(fleet.planned_usd_per_hour, 3) + '/h']),
        sum('Live', 'fleet-live-usd', [fleet.live_usd_per_hour === null ? 'unknown' : usd(fleet.live_usd_per_hour, 3) + '/h ', fleet.live_usd_per_hour === null ? null : el('small', {}, ['at the plan’s prices'])]),
        sum('Prices', 'price-age', age),
        sum('Next change', 'next-change', [nextChange(fleet.next_change)])
      ])
    ];
    fleet.models.forEach(function (model) {
      body.push(el('h3', {}, [model.model + ' ', el('span', {'class': 'soft'}, ['at ' + Number(model.planned_rps.toPrecision(6)) + ' requests per second'])]));
      body.push(el('dl', {'class': 'sums'}, [sum('Requests within the SLO', 'attainment', attainment(model))].concat(observed(model))));
      body.push(table(fleet, model));
    });
    if (fleet.watch) body.push(watch(fleet.watch));
    if (fleet.models.length) body.push(figures(fleet));
    if (fleet.strays.length) body.push(el('div', {'class': 'told'}, fleet.strays.map(stray)));
    return el('section', {'class': 'card', 'data-fleet': fleet.id, 'aria-label': fleet.name}, body);
  }

  // Drawn when opened, and open again after a refresh; kept by the fleet's id.
  var opened = {};

  function figures(fleet) {
    var place = page.base + PATH + '/fleets/' + encodeURIComponent(fleet.id) + '/figures';
    var inner = el('div', {}, [el('p', {'class': 'soft'}, ['loading…'])]);
    var box = el('details', {'data-figures': fleet.id}, [el('summary', {}, ['Figures']), inner]);
    if (opened[fleet.id] && opened[fleet.id].at === fleet.created_at) inner = box.replaceChild(opened[fleet.id].inner, inner) && opened[fleet.id].inner;
    box.open = Boolean(opened[fleet.id] && opened[fleet.id].open);
    box.addEventListener('toggle', function () {
      var known = opened[fleet.id];
      if (!box.open || (known && known.at === fleet.created_at)) {
        if (known) known.open = box.open;
        return;
      }
      opened[fleet.id] = {at: fleet.created_at, inner: inner, open: true};
      fetch(place).then(function (answer) {
        if (!answer.ok) throw new Error('the server answered ' + answer.status);
        return answer.json();
      }).then(function (found) {
        inner.replaceChildren.apply(inner, found.figures.map(function (one) { return figure(place, one); }));
      }).catch(function (problem) {
        delete opened[fleet.id];
        inner.replaceChildren(el('p', {'class': 'bad'}, ['could not be drawn: ' + problem.message]));
      });
    });
    return box;
  }

  function figure(place, one) {
    var rows = one.rows.map(function (row) { return el('tr', {}, row.map(function (text) { return el('td', {}, [text]); })); });
    var heads = one.header.map(function (text) { return el('th', {scope: 'col'}, [text]); });
    return el('figure', {'data-drawing': one.name}, [
      el('h4', {}, [one.title]),
      el('img', {src: place + '/' + encodeURIComponent(one.name) + '.svg', alt: one.title + '. ' + one.caption}),
      el('figcaption', {}, [one.caption + ' ', el('small', {}, [one.origin])]),
      el('details', {}, [
        el('summary', {}, ['Table']),
        el('div', {'class': 'wide', tabindex: '0', role: 'region', 'aria-label': one.title}, [el('table', {}, [el('thead', {}, [el('tr', {}, heads)]), el('tbody', {}, rows)])])
      ])
    ]);
  }

  function lookText(one) {
    var what = one.event || one.decision + ' (' + one.reason + ')';
    return one.time.slice(0, 16).replace('T', ' ') + ' UTC: ' + what + (one.message ? ', ' + one.message : '');
  }

  function watch(found) {
    var last = found.last ? lookText(found.last) : 'no look yet';
    var rows = found.changes.map(function (one) { return el('li', {}, [lookText(one)]); });
    return el('div', {'data-figure': 'watch'}, [
      el('h3', {}, ['Watch']),
      el('p', {'class': 'soft'}, ['Last look ' + last]),
      rows.length ? el('ul', {'aria-label': 'Last decisions and changes'}, rows) : el('p', {'class': 'soft'}, ['No change was decided lately.'])
    ]);
  }

  function nextChange(change) {
    return change ? change.at.slice(0, 16).replace('T', ' ') + ' UTC: ' + change.text : 'none planned';
  }

  function told(messages) {
    return messages.length ? el('div', {'class': 'told', role: 'status'}, messages.map(function (text) { return el('p', {}, [text]); })) : null;
  }

  function liveNote(live) {
    if (live.age_s === null) return 'live state: unknown';
    return 'live state from SkyServe’s records, ' + Math.round(live.age_s) + ' s old';
  }

  function show(box, found) {
    var problems = found.problems.slice();
    if (found.live.error) problems.unshift('SkyServe could not be asked: ' + found.live.error);
    var parts = [told(problems)].concat(found.fleets.map(card));
    if (!found.fleets.length) parts.push(el('p', {'class': 'soft'}, ['No plan to show. Name the folders of your plans as plan_dirs: melange-sky help plugin']));
    box.note.textContent = liveNote(found.live);
    box.body.replaceChildren.apply(box.body, parts.filter(Boolean));
    box.body.setAttribute('data-loaded', 'true');
  }

  var page = {base: ''};

  function mount(given) {
    var container = given && given.container ? given.container : given;
    var note = el('span', {'class': 'soft'}, ['loading…']);
    var again = el('button', {type: 'button'}, ['Refresh']);
    var body = el('div', {}, []);
    var root = el('div', {'class': 'msk', id: 'melange-fleets'}, [
      el('style', {}, [STYLE]),
      el('div', {'class': 'head'}, [el('h1', {}, ['Fleets']), el('span', {}, [note, ' ', again])]),
      body
    ]);
    var box = {note: note, body: body};
    var ended = false;

    function load() {
      return fetch(page.base + PATH + '/fleets', {headers: {accept: 'application/json'}}).then(function (answer) {
        if (!answer.ok) throw new Error('the server answered ' + answer.status);
        return answer.json();
      }).then(function (found) {
        if (!ended) show(box, found);
      }).catch(function (problem) {
        if (!ended) box.note.textContent = 'could not be refreshed: ' + problem.message;
      });
    }

    var timer = window.setInterval(function () { if (!document.hidden) load(); }, EVERY_MS);
    again.addEventListener('click', load);
    container.appendChild(root);
    load();
    return function () {
      ended = true;
      window.clearInterval(timer);
      root.remove();
    };
  }

  function start(api) {
    var context = typeof api.getContext === 'function' ? api.getContext() : {};
    page.base = typeof context.apiEndpoint === 'string' ? context.apiEndpoint.replace(/\/$/, '') : '';
    api.registerTopNavLink({id: 'melange', label: 'Fleets', href: '/plugins/melange', order: 50, description: 'Planned against live, from melange-sky'});
    api.registerRoute({id: 'melange', path: '/plugins/melange', title: 'Fleets', description: 'Planned against live, from melange-sky', mount: mount});
  }

  if (window.SkyDashboardPluginAPI) start(window.SkyDashboardPluginAPI);
  else window.addEventListener('skydashboard:plugins-ready', function (event) { start(event.detail); }, {once: true});
})();
