// The page for calls of sound.
import { startPhone } from "./modules/phone.js";

startPhone({ title: "Gangway Phone", pictures: null });
