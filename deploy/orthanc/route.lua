-- Orthanc sends what it stores to the node `gazeseg` (DicomModalities), by modality, and tries again until the node has it.
--
-- Give Orthanc both files: "LuaScripts": ["gazeseg.lua", "route.lua"]. Settings come from the environment: GAZESEG_STATE (a
-- folder to remember the position in), GAZESEG_MODALITIES (like "ES,US"). It looks after every stable series, and every
-- LuaHeartBeatPeriod seconds from Orthanc 1.11 on; before that, let a timer post "gazeseg_sweep()" to /tools/execute-script.

local function send(id)
  local answer = RestApiPost('/modalities/gazeseg/store', DumpJson({ Resources = { id }, Synchronous = true }))
  if answer == nil or answer == '' then return false end
  local facts = ParseJson(answer)
  return facts ~= nil and facts['FailedInstancesCount'] == 0
end

function gazeseg_sweep()
  local position = gazeseg_read_position()
  local done = false
  while not done do
    local found, last, finished = gazeseg_new_instances(position, 100)
    for _, item in ipairs(found) do
      local tags = gazeseg_tags(item.id)
      if tags ~= nil and gazeseg_wants(tags['Modality']) and not send(item.id) then
        print('gazeseg: the node does not take instance ' .. item.id .. ' yet; it is sent again at the next look')
        gazeseg_write_position(item.seq - 1)
        return
      end
    end
    position = last
    gazeseg_write_position(position)
    done = finished
  end
end

function OnStableSeries(id, tags, metadata) gazeseg_sweep() end
function OnHeartBeat() gazeseg_sweep() end
