// The page for calls with pictures.
import { startPhone } from "./modules/phone.js";
import { Pictures } from "./modules/pictures.js";

startPhone({ title: "Gangway Phone Video", pictures: new Pictures() });
