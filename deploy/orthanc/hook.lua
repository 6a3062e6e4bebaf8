-- Without a node: Orthanc posts every series that has become stable to a running `gazeseg-serve serve`, and stores the answer.
--
-- Give Orthanc both files: "LuaScripts": ["gazeseg.lua", "hook.lua"]. Settings come from the environment: GAZESEG_URL (like
-- http://localhost:3000), GAZESEG_KEY (its API key, if it asks for one), GAZESEG_MODALITIES (like "ES,US"), GAZESEG_STATE (a
-- folder to remember the position in). It looks after every stable series, and every LuaHeartBeatPeriod seconds from Orthanc
-- 1.11 on; before that, let a timer post "gazeseg_sweep()" to /tools/execute-script.
--
-- While the service is away nothing is skipped. A series that the service refuses three times is left, with the reason as
-- the metadata GAZESEG_ERROR (1031) of the series, which the explorer shows; gazeseg_again('ORTHANC ID') tries it anew.

local ERROR, DONE = '1031', '1032'
local url = os.getenv('GAZESEG_URL') or 'http://localhost:3000'
local key = os.getenv('GAZESEG_KEY') or ''
local refusals = {}

if SetHttpTimeout ~= nil then SetHttpTimeout(600) end -- before Orthanc 1.11 it is HttpTimeout in the configuration

-- Whether the service can take images. (Orthanc takes no empty table of headers.)
local function ready()
  if key == '' then return HttpGet(url .. '/readyz') ~= nil end
  return HttpGet(url .. '/readyz', { ['Authorization'] = 'Bearer ' .. key }) ~= nil
end

-- The slices of a series as one form; the boundary stands in none of them.
local function form(instances)
  local files = {}
  for _, id in ipairs(instances) do table.insert(files, RestApiGet('/instances/' .. id .. '/file')) end
  local boundary, clash = 'gazeseg', true
  while clash do
    boundary, clash = boundary .. math.random(1000000), false
    for _, file in ipairs(files) do
      if string.find(file, boundary, 1, true) then clash = true end
    end
  end
  local parts = {}
  for number, file in ipairs(files) do
    table.insert(parts, '--' .. boundary .. '\r\nContent-Disposition: form-data; name="image"; filename="' .. number .. '.dcm"\r\n'
      .. 'Content-Type: application/dicom\r\n\r\n' .. file .. '\r\n')
  end
  table.insert(parts, '--' .. boundary .. '--\r\n')
  return table.concat(parts), boundary
end

-- True, or false and why not. A reason of nil: the service is away.
local function segment(series, instances)
  if not ready() then return false, nil end
  local body, boundary = form(instances)
  local headers = { ['Content-Type'] = 'multipart/form-data; boundary=' .. boundary }
  if key ~= '' then headers['Authorization'] = 'Bearer ' .. key end
  local answer = HttpPost(url .. '/v1/segment/batch?output=dicom-seg', body, headers)
  if answer == nil or string.sub(answer, 129, 132) ~= 'DICM' then
    if not ready() then return false, nil end
    return false, 'the service refuses this series; its log and Orthanc\'s say why'
  end
  local stored = RestApiPost('/instances', answer)
  if stored == nil or stored == '' then return false, 'Orthanc does not store the segmentation' end
  return true
end

local function remember(series, metadata, value)
  RestApiPut('/series/' .. series .. '/metadata/' .. metadata, value)
end

-- Whether nothing is left to do for a series: it was done with as many images as it has, or refused for good.
local function settle(series)
  local text = RestApiGet('/series/' .. series)
  if text == nil or text == '' then return true end
  local facts = ParseJson(text)
  if not gazeseg_wants(facts['MainDicomTags']['Modality']) then return true end
  local state = #facts['Instances'] .. ''
  local metadata = ParseJson(RestApiGet('/series/' .. series .. '/metadata?expand')) or {}
  if metadata[DONE] == state or metadata['GAZESEG_DONE'] == state then return true end
  if not facts['IsStable'] then return false end
  local good, reason = segment(series, facts['Instances'])
  if good then
    remember(series, DONE, state)
    return true
  end
  if reason == nil then
    print('gazeseg: the service is away; series ' .. series .. ' waits')
    return false, true
  end
  refusals[series] = (refusals[series] or 0) + 1
  print('gazeseg: series ' .. series .. ': ' .. reason)
  remember(series, ERROR, reason)
  if refusals[series] < 3 then return false end
  remember(series, DONE, state)
  return true
end

function gazeseg_sweep()
  local position, first, asked, done = gazeseg_read_position(), nil, {}, false
  local away = false
  while not done and not away do
    local found, last, finished = gazeseg_new_instances(position, 100)
    for _, item in ipairs(found) do
      local text = RestApiGet('/instances/' .. item.id)
      local series = text ~= nil and text ~= '' and ParseJson(text)['ParentSeries'] or nil
      if series ~= nil and asked[series] == nil then
        local settled, gone = settle(series)
        asked[series] = true
        away = away or gone
        if not settled and first == nil then first = item.seq - 1 end
      end
    end
    position = last
    done = finished
  end
  gazeseg_write_position(first or position)
end

function gazeseg_again(series)
  refusals[series] = nil
  remember(series, DONE, '0')
  settle(series)
end

function OnStableSeries(id, tags, metadata) gazeseg_sweep() end
function OnHeartBeat() gazeseg_sweep() end
