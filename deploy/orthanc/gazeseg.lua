-- What Orthanc and gazeseg-serve's scripts share: a walk through Orthanc's own log of changes, which outlives it.
--
-- Orthanc numbers every image that it stores. A script remembers, in a file, up to which number all is done, and goes
-- on from there: after a crash of anybody, at any moment, no image is left out. What was done already may be done
-- again; node and service answer that with the same objects under the same UIDs.

local folder = os.getenv('GAZESEG_STATE') or '.'
local name = os.getenv('GAZESEG_SCRIPT') or 'gazeseg'

function gazeseg_read_position()
  local file = io.open(folder .. '/' .. name .. '.position', 'r')
  if file == nil then return 0 end
  local position = tonumber(file:read('*l')) or 0
  file:close()
  return position
end

function gazeseg_write_position(position)
  local path = folder .. '/' .. name .. '.position'
  local file = io.open(path .. '.new', 'w')
  if file == nil then
    print('gazeseg: cannot write ' .. path .. '; set GAZESEG_STATE to a folder of Orthanc\'s user')
    return
  end
  file:write(position, '\n')
  file:close()
  os.rename(path .. '.new', path)
end

-- The new instances after `since`, up to `limit` changes: a list of {seq, id}, and the number that the next look begins at.
function gazeseg_new_instances(since, limit)
  local answer = ParseJson(RestApiGet('/changes?since=' .. since .. '&limit=' .. limit))
  local found = {}
  for _, change in ipairs(answer['Changes']) do
    if change['ChangeType'] == 'NewInstance' then
      table.insert(found, { seq = change['Seq'], id = change['ID'] })
    end
  end
  return found, answer['Last'], answer['Done']
end

-- Whether the images of this modality are wanted. GAZESEG_MODALITIES: like "ES,US"; empty: all that are images.
function gazeseg_wants(modality)
  local never = 'SEG,SR,PR,KO,RTSTRUCT,RTPLAN,RTDOSE,REG,FID,DOC,AU,ECG,'
  if string.find(never, (modality or '') .. ',', 1, true) == 1 or string.find(never, ',' .. (modality or '') .. ',', 1, true) then
    return false
  end
  local wanted = os.getenv('GAZESEG_MODALITIES') or ''
  return wanted == '' or string.find(',' .. wanted .. ',', ',' .. (modality or '') .. ',', 1, true) ~= nil
end

-- The simplified tags of an instance; nil where it is gone meanwhile.
function gazeseg_tags(id)
  local text = RestApiGet('/instances/' .. id .. '/simplified-tags')
  if text == nil or text == '' then return nil end
  return ParseJson(text)
end
